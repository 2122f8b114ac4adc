// The drop zone: uploads files and shows their progress.

import { announce, byId, json, make, sleep } from "./dom.js";

const POLL_MS = 800;
const STEPS = [
  ["sent", "uploaded"],
  ["pending", "queued"],
  ["processed", "processed"],
  ["served", "served"],
];

// Whether this page gets an upload token from the server: only on the server's own machine.
let local = false;
let onServed = async () => {};

async function token() {
  if (!local) return byId("token").value.trim();
  return (await json("/api/page/token", { cache: "no-store" })).token;
}

function makeRow(file) {
  const preview = make("img", { alt: "", src: URL.createObjectURL(file) });
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
  const response = await fetch("/users/me", {
    method: "PATCH",
    headers: { Authorization: `Bearer ${await token()}` },
    body: form,
  });
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(value.detail ?? `${response.status} ${response.statusText}`);
  markStep(row, "sent");
  return value.images[0].id;
}

async function waitForImage(id, row) {
  for (;;) {
    const { status, media_id: mediaId } = await json(`/api/page/uploads/${id}`, { cache: "no-store" });
    if (status === "failed") throw new Error("processing failed; see the server's log");
    if (mediaId) return mediaId;
    markStep(row, "pending");
    await sleep(POLL_MS);
  }
}

async function upload(file) {
  const row = makeRow(file);
  try {
    const id = await send(file, row);
    if (!local) return;
    const mediaId = await waitForImage(id, row);
    markStep(row, "processed");
    await fetch(`/serve/${mediaId}?size=thumbnail`);
    markStep(row, "served");
    const open = await onServed(mediaId);
    row.link.append(make("button", { type: "button", textContent: "Inspect", onclick: open }));
    announce(`${file.name} is served`);
  } catch (error) {
    fail(row, error.message);
  }
}

function listen() {
  const zone = byId("drop");
  const over = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.ondragover = over(true);
  zone.ondragleave = over(false);
  zone.ondrop = (event) => {
    over(false)(event);
    for (const file of event.dataTransfer.files) upload(file);
  };
  zone.onsubmit = (event) => event.preventDefault();
  byId("file").onchange = (event) => {
    for (const file of event.target.files) upload(file);
    event.target.value = "";
  };
}

// The OpenAPI document says whether the server accepts uploads, and from this page without a token.
export async function start(served) {
  onServed = served;
  const { paths } = await json("/openapi.json");
  if (!("/users/me" in paths)) return;
  local = "/api/page/token" in paths;
  byId("token-row").hidden = local;
  byId("upload").hidden = false;
  listen();
}
