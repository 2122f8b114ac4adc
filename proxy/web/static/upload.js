// The drop zone: uploads files and shows their progress.

import { announce, byId, json, make, request, sleep, takeFiles } from "./dom.js";

const POLL_MS = 800;
const MAX_FAILURES = 75;
// Files that are read, sent and polled for at once: each one is in memory while it is read.
const AT_ONCE = 4;
const STEPS = [
  ["sent", "uploaded"],
  ["pending", "queued"],
  ["processed", "processed"],
  ["served", "served"],
];

// Whether this page gets an upload token from the server: only on the server's own machine.
let local = false;
let onServed = async () => {};
let findNewest = () => 0;

async function token() {
  if (!local) return byId("token").value.trim();
  return (await json("/api/page/token", { cache: "no-store" })).token;
}

// Return the headers of a request in the name of the page's user.
export async function authorization() {
  const found = await token();
  return found ? { Authorization: `Bearer ${found}` } : {};
}

function makeRow(file) {
  // Only the previews in view are decoded.
  const preview = make("img", { alt: "", loading: "lazy", src: URL.createObjectURL(file) });
  preview.onload = preview.onerror = () => URL.revokeObjectURL(preview.src);
  const steps = make("div", { className: "steps" }, ...STEPS.map(([key, text]) => make("span", { "data-step": key, textContent: text })));
  const link = make("span");
  const item = make("li", {}, preview, make("div", {}, make("div", { className: "name", textContent: file.name }), steps), link);
  byId("uploads").prepend(item);
  return { item, steps, link };
}

function markStep({ steps }, key) {
  const upTo = STEPS.findIndex(([name]) => name === key);
  [...steps.children].forEach((one, at) => one.classList.toggle("done", at <= upTo));
}

function fail({ steps }, text) {
  steps.append(make("span", { className: "bad", textContent: text }));
  announce(text);
}

async function send(file, row) {
  const form = new FormData();
  form.append("product_image", file, file.name);
  const headers = await authorization();
  const { images } = await json("/users/me", { method: "PATCH", headers, body: form });
  markStep(row, "sent");
  return images[0].id;
}

async function waitForImage(id, row) {
  let failures = 0;
  for (;;) {
    // The upload is stored: a busy or restarting server is requested again.
    const found = await json(`/api/page/uploads/${id}`, { cache: "no-store" }).catch((error) => {
      failures += 1;
      if (error.status < 500 || failures > MAX_FAILURES) throw error;
    });
    if (found?.status === "failed") throw new Error("processing failed; see the server's log");
    if (found?.media_id) return found.media_id;
    if (found) {
      failures = 0;
      markStep(row, "pending");
    }
    await sleep(POLL_MS);
  }
}

// Return the SHA-256 of a file in hexadecimal digits.
async function digestOf(file) {
  const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
  return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Upload a file and wait until it is served; return its image, and whether that existed before.
async function transfer(file, row, digest) {
  const known = await json(`/api/page/known?sha256=${digest}`, { cache: "no-store" });
  if (known.id) return { ...known, known: true };
  const newest = findNewest();
  const id = await waitForImage(await send(file, row), row);
  markStep(row, "processed");
  await request(`/serve/${id}?size=thumbnail`);
  markStep(row, "served");
  // The ingest worker merges an upload with an equal one, whose image is older.
  return { id, known: id <= newest };
}

// Transfers that have not ended, by the digests of their files: of equal files one is uploaded.
const transfers = new Map();

const waiting = [];
let active = 0;

async function upload(file, row) {
  try {
    if (!local) {
      await send(file, row);
      const [, ...later] = row.steps.children;
      for (const one of later) one.remove();
      row.steps.append(make("span", { className: "known", textContent: "listed here once it is processed" }));
      announce(`${file.name} is uploaded`);
      return;
    }
    const digest = await digestOf(file);
    const running = transfers.get(digest);
    const started = running ?? transfer(file, row, digest).finally(() => transfers.delete(digest));
    transfers.set(digest, started);
    const found = await started;
    await showImage(row, file, { ...found, known: found.known || running !== undefined });
  } catch (error) {
    fail(row, error.message);
  }
}

async function uploadWaiting() {
  active += 1;
  while (waiting.length) await upload(...waiting.shift());
  active -= 1;
}

function enqueue(files) {
  waiting.push(...files.map((file) => [file, makeRow(file)]));
  while (waiting.length && active < AT_ONCE) uploadWaiting();
}

async function showImage(row, file, { id, name, known }) {
  const open = await onServed(id);
  row.link.append(
    make("button", { type: "button", textContent: "Inspect", "aria-label": `Inspect ${file.name}`, onclick: open }),
  );
  const text = `This file is image ${id} already${name ? ` (${name})` : ""}. No second image was created.`;
  if (known) row.steps.replaceChildren(make("span", { className: "known", textContent: text }));
  announce(known ? `${file.name}: ${text}` : `${file.name} is served`);
}

// The OpenAPI document says whether the server accepts uploads, and from this page without a token.
export function start(paths, served, newest) {
  onServed = served;
  findNewest = newest;
  if (!("/users/me" in paths)) return;
  local = "/api/page/token" in paths;
  byId("token-row").hidden = local;
  byId("upload").hidden = false;
  takeFiles(byId("drop"), byId("file"), enqueue);
}
