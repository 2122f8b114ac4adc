// Requests images as an <img> element would, and polls for the final after a draft.

import { json, request, sleep } from "./dom.js";
import { stageOf } from "./format.js";

const POLL_MS = 1000;
const TIMEOUT_MS = 180_000;
const TYPICAL_ACCEPT = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";

let detected;

// Return the Accept header that this browser sends for images. Scripts cannot read it. The server
// returns it in Server-Timing of a pixel, which the browser's performance entry contains.
export function imageAccept() {
  detected ??= new Promise((resolve) => {
    const url = `/api/page/accept.gif?${Date.now()}`;
    const pixel = new Image();
    // The browser adds no entries after the first 250; requests for the metrics fill them in minutes.
    performance.clearResourceTimings();
    pixel.onload = pixel.onerror = () => {
      const [entry] = performance.getEntriesByName(new URL(url, location.href).href);
      const value = entry?.serverTiming?.find((one) => one.name === "accept")?.description;
      resolve({ accept: value ? decodeURIComponent(value) : TYPICAL_ACCEPT, exact: Boolean(value) });
    };
    pixel.src = url;
  });
  return detected;
}

// Explain the choice of a format for this browser and a kind of image.
export async function explainFormat({ transparent, animated }, signal) {
  const { accept, exact } = await imageAccept();
  const url = `/api/page/accept?transparent=${Number(transparent)}&animated=${Number(animated)}`;
  const options = { headers: { Accept: accept }, cache: "no-store", signal };
  return { ...(await json(url, options)), exact };
}

// `defaultBg`: the background that the image has without `bg`.
export function imageUrl(id, { size, w, dpr, format, bg, defaultBg = "original", v }) {
  const query = new URLSearchParams();
  if (w) query.set("w", w);
  else if (size) query.set("size", size);
  if (dpr && dpr !== "1") query.set("dpr", dpr);
  if (format && format !== "auto") query.set("format", format);
  if (bg && bg !== defaultBg) query.set("bg", bg);
  if (v) query.set("v", v);
  return `/serve/${id}?${query}`;
}

// Return the headers, bytes and duration of one response; null for a 304.
export async function fetchImage(url, { signal, etag } = {}) {
  const { accept } = await imageAccept();
  const headers = { Accept: accept, ...(etag && { "If-None-Match": etag }) };
  const start = performance.now();
  const response = await request(url, { headers, signal, cache: "no-store" });
  if (response.status === 304) return null;
  const blob = await response.blob();
  const seconds = (performance.now() - start) / 1000;
  const stage = stageOf(response.headers.get("Cache-Status"));
  return { url, headers: response.headers, blob, seconds, stage, etag: response.headers.get("ETag") };
}

// Poll until the final has replaced a draft or a fallback; return null after TIMEOUT_MS.
export async function waitForFinal(first, signal) {
  const deadline = performance.now() + TIMEOUT_MS;
  while (performance.now() < deadline) {
    await sleep(POLL_MS, signal);
    // The draft or fallback is shown already, so a 5xx response or a failed connection is retried.
    const response = await fetchImage(first.url, { signal, etag: first.etag }).catch((error) => {
      if (signal.aborted || error.status < 500) throw error;
    });
    if (response?.stage === "final") return response;
  }
  return null;
}
