// The drop zone: a file goes the way of every upload, and is watched on it.

import { byId, json, make, pause, say } from "./dom.js";

const EVERY_MS = 800;
const STEPS = [
  ["sent", "sent"],
  ["pending", "in the queue"],
  ["processed", "processed"],
  ["served", "served"],
];

let trial = false;
let arrived = async () => {};

async function token() {
  if (!trial) return byId("token").value.trim();
  return (await json("/api/page/token", { cache: "no-store" })).token;
}

function row(file) {
  const preview = make("img", { alt: "", src: URL.createObjectURL(file) });
  const steps = make("div", { className: "steps" }, ...STEPS.map(([key, text]) => make("span", { "data-step": key, textContent: text })));
  const link = make("span");
  const item = make("li", {}, preview, make("div", {}, make("div", { className: "name", textContent: file.name }), steps), link);
  byId("uploads").prepend(item);
  return { item, steps, link };
}

function reach({ steps }, key) {
  const upTo = STEPS.findIndex(([name]) => name === key);
  [...steps.children].forEach((one, at) => one.classList.toggle("done", at <= upTo));
}

function fail({ steps }, text) {
  steps.append(make("span", { className: "bad", textContent: text }));
  say(text);
}

async function send(file, where) {
  const form = new FormData();
  form.append("product_image", file, file.name);
  const answer = await fetch("/users/me", {
    method: "PATCH",
    headers: { Authorization: `Bearer ${await token()}` },
    body: form,
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.detail ?? `${answer.status} ${answer.statusText}`);
  reach(where, "sent");
  return told.images[0].id;
}

async function watch(id, where) {
  for (;;) {
    const { status, media_id: mediaId } = await json(`/api/page/uploads/${id}`, { cache: "no-store" });
    if (status === "failed") throw new Error("it could not be taken in; the log says why");
    if (mediaId) return mediaId;
    reach(where, "pending");
    await pause(EVERY_MS);
  }
}

async function take(file) {
  const where = row(file);
  try {
    const id = await send(file, where);
    if (!trial) return;
    const mediaId = await watch(id, where);
    reach(where, "processed");
    await fetch(`/serve/${mediaId}?size=thumbnail`);
    reach(where, "served");
    const picture = await arrived(mediaId);
    where.link.append(make("button", { type: "button", textContent: "Inspect", onclick: picture }));
    say(`${file.name} is served`);
  } catch (error) {
    fail(where, error.message);
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
    for (const file of event.dataTransfer.files) take(file);
  };
  zone.onsubmit = (event) => event.preventDefault();
  byId("file").onchange = (event) => {
    for (const file of event.target.files) take(file);
    event.target.value = "";
  };
}

// Whether uploads are taken here, and whether a token is to be had, the description tells.
export async function start(onArrival) {
  arrived = onArrival;
  const { paths } = await json("/openapi.json");
  if (!("/users/me" in paths)) return;
  trial = "/api/page/token" in paths;
  byId("token-row").hidden = trial;
  byId("upload").hidden = false;
  listen();
}
