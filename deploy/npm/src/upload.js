// Sends one file to a metadata route. Without dependencies: browsers and Node.js use it.

/** An answer that is no success: `status` and `code` are those of the response, or undefined. */
export class AnalysisError extends Error {
  constructor(message, { status, code, cause } = {}) {
    super(message, { cause });
    this.name = "AnalysisError";
    this.status = status;
    this.code = code;
  }
}

async function problemOf(response) {
  const problem = await response.json().catch(() => null);
  const text = problem?.error ?? problem?.detail;
  // Statuses of HTTP/2 have no text.
  const message = typeof text === "string" ? text : `Analysis failed: ${response.status} ${response.statusText}`.trim();
  return new AnalysisError(message, { status: response.status, code: problem?.code });
}

/** Request a path of the server; return the JSON of the answer. Throws AnalysisError, or the reason of `signal`. */
export async function fetchJson(path, { base = "", token, signal, ...options } = {}) {
  const url = `${base.replace(/\/$/, "")}${path}`;
  const headers = { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const response = await fetch(url, { headers, signal, ...options }).catch((cause) => {
    if (signal?.aborted) throw signal.reason;
    throw new AnalysisError("The server does not respond. Check that it is running, then retry.", { cause });
  });
  if (!response.ok) throw await problemOf(response);
  return response.json().catch((cause) => {
    if (signal?.aborted) throw signal.reason;
    throw new AnalysisError("The answer of the server is incomplete. Retry.", { status: response.status, cause });
  });
}

/** POST a Blob as a multipart form; otherwise as `fetchJson`. */
export async function upload(path, file, { field = "file", name = file.name, fields = {}, base, token, signal } = {}) {
  const form = new FormData();
  // Before the file: the server reads a form in its order, and needs them for the file.
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) form.append(key, value);
  form.append(field, file, name ?? "image");
  return fetchJson(path, { base, token, signal, method: "POST", body: form });
}

/** Analyze a file with the route of the analyzer (`POST /api/standalone-metadata/analyze`). */
export const analyze = (file, { sessionId, ...options } = {}) =>
  upload("/api/standalone-metadata/analyze", file, { ...options, field: "image", fields: { sessionId } });

/** Analyze a file with progress (`POST /api/images_mvp/extract`). */
export const extract = (file, { sessionId, ...options } = {}) =>
  upload("/api/images_mvp/extract", file, { ...options, fields: { sessionId } });
