// Requests images as an <img> element would, and polls for the final after a draft.

import { json, sleep } from "./dom.js";
import { isDraft } from "./format.js";

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
    pixel.onload = pixel.onerror = () => {
      const [entry] = performance.getEntriesByName(new URL(url, location.href).href);
      const value = entry?.serverTiming?.find((one) => one.name === "accept")?.description;
      resolve({ accept: value ? decodeURIComponent(value) : TYPICAL_ACCEPT, exact: Boolean(value) });
    };
    pixel.src = url;
  });
  return detected;
}

export async function explainFormat() {
  const { accept, exact } = await imageAccept();
  return { ...(await json("/api/page/accept", { headers: { Accept: accept }, cache: "no-store" })), exact };
}

export function imageUrl(id, { size, w, dpr, format, bg, v }) {
  const query = new URLSearchParams();
  if (w) query.set("w", w);
  else query.set("size", size);
  if (dpr && dpr !== "1") query.set("dpr", dpr);
  if (format && format !== "auto") query.set("format", format);
  if (bg && bg !== "original") query.set("bg", bg);
  if (v) query.set("v", v);
  return `/serve/${id}?${query}`;
}

// Return the headers, bytes and duration of one response; null for a 304.
export async function fetchImage(url, { signal, etag } = {}) {
  const { accept } = await imageAccept();
  const headers = { Accept: accept, ...(etag && { "If-None-Match": etag }) };
  const start = performance.now();
  const response = await fetch(url, { headers, signal, cache: "no-store" });
  if (response.status === 304) return null;
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new Error(problem.detail ?? `${response.status} ${response.statusText}`);
  }
  const blob = await response.blob();
  const seconds = (performance.now() - start) / 1000;
  const draft = isDraft(response.headers.get("Cache-Status"));
  return { url, headers: response.headers, blob, seconds, draft, etag: response.headers.get("ETag") };
}

// Poll until the final has replaced a draft; return null after TIMEOUT_MS.
export async function waitForFinal(draft, signal) {
  const deadline = performance.now() + TIMEOUT_MS;
  while (performance.now() < deadline) {
    await sleep(POLL_MS, signal);
    const response = await fetchImage(draft.url, { signal, etag: draft.etag });
    if (response && !response.draft) return response;
  }
  return null;
}
