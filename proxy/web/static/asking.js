// Asking for pictures as an <img> would, and waiting for the final where a draft came.

import { json, pause } from "./dom.js";
import { isDraft } from "./words.js";

const LOOK_AGAIN_MS = 1000;
const GIVE_UP_MS = 180_000;
const USUAL = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";

let asked;

// The Accept header with which this browser asks for pictures. Scripts cannot read it: the server
// tells it in Server-Timing of a pixel, which the browser notes down.
export function imageAccept() {
  asked ??= new Promise((resolve) => {
    const url = `/api/page/accept.gif?${Date.now()}`;
    const pixel = new Image();
    pixel.onload = pixel.onerror = () => {
      const [entry] = performance.getEntriesByName(new URL(url, location.href).href);
      const told = entry?.serverTiming?.find((one) => one.name === "accept")?.description;
      resolve({ accept: told ? decodeURIComponent(told) : USUAL, sure: Boolean(told) });
    };
    pixel.src = url;
  });
  return asked;
}

export async function whyFormat() {
  const { accept, sure } = await imageAccept();
  return { ...(await json("/api/page/accept", { headers: { Accept: accept }, cache: "no-store" })), sure };
}

export function address(id, { size, w, dpr, format, bg, v }) {
  const query = new URLSearchParams();
  if (w) query.set("w", w);
  else query.set("size", size);
  if (dpr && dpr !== "1") query.set("dpr", dpr);
  if (format && format !== "auto") query.set("format", format);
  if (bg && bg !== "original") query.set("bg", bg);
  if (v) query.set("v", v);
  return `/serve/${id}?${query}`;
}

// One answer: its headers, its bytes and how long they took; null for a 304.
export async function ask(url, { signal, etag } = {}) {
  const { accept } = await imageAccept();
  const headers = { Accept: accept, ...(etag && { "If-None-Match": etag }) };
  const began = performance.now();
  const answer = await fetch(url, { headers, signal, cache: "no-store" });
  if (answer.status === 304) return null;
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.detail ?? `${answer.status} ${answer.statusText}`);
  }
  const blob = await answer.blob();
  const seconds = (performance.now() - began) / 1000;
  const draft = isDraft(answer.headers.get("Cache-Status"));
  return { url, headers: answer.headers, blob, seconds, draft, etag: answer.headers.get("ETag") };
}

// The final in place of a draft, once it is there; null where it takes too long.
export async function awaitFinal(draft, signal) {
  const until = performance.now() + GIVE_UP_MS;
  while (performance.now() < until) {
    await pause(LOOK_AGAIN_MS, signal);
    const answer = await ask(draft.url, { signal, etag: draft.etag });
    if (answer && !answer.draft) return answer;
  }
  return null;
}
