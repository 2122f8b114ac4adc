// The gallery: the newest pictures as tiles, with placeholders that fade into them.

import { byId, json, make } from "./dom.js";
import { paint } from "./thumbhash.js";

const PAGE = 40;
const AT_ONCE = 8;
const pictures = [];
const tiles = new Map();
let next = null;
let opened = () => {};

export const all = () => pictures;
export const focusTile = (id) => tiles.get(id)?.focus();

function thumbnail(picture) {
  const version = picture.version ? `&v=${picture.version}` : "";
  return `/serve/${picture.id}?size=thumbnail${version}`;
}

function name(picture) {
  return picture.name || `Picture ${picture.id}`;
}

function tile(picture) {
  const blur = make("canvas", { "aria-hidden": "true", width: 0 });
  if (picture.thumbhash) paint(blur, picture.thumbhash);
  const image = make("img", { alt: "", loading: "lazy", decoding: "async" });
  const sizes = picture.width ? `${picture.width} × ${picture.height}` : "";
  const button = make(
    "button",
    { type: "button", className: "tile", "aria-label": `Inspect ${name(picture)}` },
    blur,
    image,
    make("span", { className: "caption" }, make("b", { textContent: name(picture) }), make("i", { textContent: sizes })),
  );
  image.onload = () => {
    image.classList.add("there");
    button.classList.add("clear");
    setTimeout(() => blur.remove(), 700);
  };
  image.onerror = () => button.classList.add("broken");
  image.src = thumbnail(picture);
  button.onclick = () => opened(picture);
  tiles.set(picture.id, button);
  return make("li", {}, button);
}

function count() {
  const empty = pictures.length === 0;
  byId("gallery-empty").hidden = !empty;
  byId("more").hidden = next === null;
  const more = next === null ? "" : " and more";
  byId("gallery-count").textContent = empty ? "" : `${pictures.length}${more}`;
}

async function page(before) {
  const query = before === null ? "" : `&before=${before}`;
  const told = await json(`/api/gallery?limit=${PAGE}${query}`);
  next = told.next;
  return told.pictures;
}

// Have placeholders made that nobody knows yet: for this visit where the picture is slow, else for
// the next one. A few at a time, when all thumbnails are on their way.
async function learn(found) {
  const unknown = found.filter((one) => !one.thumbhash);
  while (unknown.length) {
    const some = unknown.splice(0, AT_ONCE);
    const told = await json(`/info?ids=${some.map((one) => one.id).join(",")}`);
    for (const { id, placeholders } of told.pictures) {
      some.find((one) => one.id === id).thumbhash = placeholders.thumbhash;
      const button = tiles.get(id);
      const blur = button.querySelector("canvas");
      if (blur && !button.classList.contains("clear")) paint(blur, placeholders.thumbhash);
    }
  }
}

// Put what is newer than the first tile before it.
export async function refresh() {
  const before = next;
  const newer = (await page(null)).filter((one) => !tiles.has(one.id));
  if (pictures.length) next = before;
  pictures.unshift(...newer);
  byId("gallery").prepend(...newer.map(tile));
  count();
  learn(newer).catch(() => {});
}

async function older() {
  const found = await page(next);
  pictures.push(...found);
  const added = found.map(tile);
  byId("gallery").append(...added);
  count();
  learn(found).catch(() => {});
  added[0]?.querySelector("button").focus();
}

// Arrow keys go from tile to tile, as many to a row as there are.
function steer(event) {
  const buttons = [...tiles.values()].sort((a, b) => (a.compareDocumentPosition(b) & 4 ? -1 : 1));
  const at = buttons.indexOf(document.activeElement);
  const row = getComputedStyle(byId("gallery")).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
  if (at < 0 || step === undefined) return;
  event.preventDefault();
  buttons[at + step]?.focus();
}

export async function start(onOpen) {
  opened = onOpen;
  byId("more").onclick = older;
  byId("gallery").onkeydown = steer;
  await refresh();
}
