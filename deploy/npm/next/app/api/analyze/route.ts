// app/api/analyze/route.ts: analyzes an image for the pages of this application. The token stays here.
// Whoever can use this route, uses the token: check the session of your users first.

const SERVER = process.env.IMAGE_SERVER_URL ?? "http://127.0.0.1:8080";

export async function POST(request: Request): Promise<Response> {
  const headers = new Headers({ Accept: "application/json" });
  const type = request.headers.get("content-type");
  if (type) headers.set("content-type", type);
  if (process.env.IMAGE_SERVER_TOKEN) headers.set("authorization", `Bearer ${process.env.IMAGE_SERVER_TOKEN}`);
  try {
    // The body is passed on while it arrives, so that a large file does not fill the memory.
    const answer = await fetch(new URL("/api/analyze", SERVER), {
      method: "POST",
      headers,
      body: request.body,
      signal: request.signal,
      // @ts-expect-error: needed by Node.js for a stream, and missing in the types of the DOM.
      duplex: "half",
    });
    return new Response(answer.body, {
      status: answer.status,
      headers: { "content-type": answer.headers.get("content-type") ?? "application/json" },
    });
  } catch (error) {
    console.error("The smartserve server does not respond:", error);
    return Response.json({ success: false, error: "Analysis failed", code: "UNAVAILABLE" }, { status: 502 });
  }
}
