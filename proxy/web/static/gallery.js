// The gallery: the newest images as tiles, each with a placeholder until it has loaded.

import { byId, json, make } from "./dom.js";
import { paint } from "./thumbhash.js";

const PAGE = 40;
const BATCH = 8;
const images = [];
const tiles = new Map();
let next = null;
let onOpen = () => {};

export const all = () => images;
export const focusTile = (id) => tiles.get(id)?.focus();

function thumbnail(image) {
  const version = image.version ? `&v=${image.version}` : "";
  return `/serve/${image.id}?size=thumbnail${version}`;
}

function name(image) {
  return image.name || `Image ${image.id}`;
}

function tile(image) {
  const blur = make("canvas", { "aria-hidden": "true", width: 0 });
  if (image.thumbhash) paint(blur, image.thumbhash);
  const thumb = make("img", { alt: "", loading: "lazy", decoding: "async" });
  const dimensions = image.width ? `${image.width} × ${image.height}` : "";
  const button = make(
    "button",
    { type: "button", className: "tile", "aria-label": `Inspect ${name(image)}` },
    blur,
    thumb,
    make("span", { className: "caption" }, make("b", { textContent: name(image) }), make("i", { textContent: dimensions })),
  );
  thumb.onload = () => {
    thumb.classList.add("there");
    button.classList.add("clear");
    setTimeout(() => blur.remove(), 700);
  };
  thumb.onerror = () => button.classList.add("broken");
  thumb.src = thumbnail(image);
  button.onclick = () => onOpen(image);
  tiles.set(image.id, button);
  return make("li", {}, button);
}

function count() {
  const empty = images.length === 0;
  byId("gallery-empty").hidden = !empty;
  byId("more").hidden = next === null;
  const more = next === null ? "" : " and more";
  byId("gallery-count").textContent = empty ? "" : `${images.length}${more}`;
}

async function loadPage(before) {
  const query = before === null ? "" : `&before=${before}`;
  const found = await json(`/api/gallery?limit=${PAGE}${query}`);
  next = found.next;
  return found.pictures;
}

// Request missing placeholders. They help slow thumbnails now, and all of them at the next visit.
// In small batches, after all thumbnails have been requested.
async function loadPlaceholders(found) {
  const missing = found.filter((one) => !one.thumbhash);
  while (missing.length) {
    const batch = missing.splice(0, BATCH);
    const described = await json(`/info?ids=${batch.map((one) => one.id).join(",")}`);
    for (const { id, placeholders } of described.pictures) {
      batch.find((one) => one.id === id).thumbhash = placeholders.thumbhash;
      const button = tiles.get(id);
      const blur = button.querySelector("canvas");
      if (blur && !button.classList.contains("clear")) paint(blur, placeholders.thumbhash);
    }
  }
}

// Insert images that are newer than the first tile.
export async function refresh() {
  const before = next;
  const newer = (await loadPage(null)).filter((one) => !tiles.has(one.id));
  if (images.length) next = before;
  images.unshift(...newer);
  byId("gallery").prepend(...newer.map(tile));
  count();
  loadPlaceholders(newer).catch(() => {});
}

async function loadMore() {
  const found = await loadPage(next);
  images.push(...found);
  const added = found.map(tile);
  byId("gallery").append(...added);
  count();
  loadPlaceholders(found).catch(() => {});
  added[0]?.querySelector("button").focus();
}

// Move the focus with the arrow keys; up and down by one row of the grid.
function moveFocus(event) {
  const buttons = [...tiles.values()].sort((a, b) => (a.compareDocumentPosition(b) & 4 ? -1 : 1));
  const at = buttons.indexOf(document.activeElement);
  const row = getComputedStyle(byId("gallery")).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
  if (at < 0 || step === undefined) return;
  event.preventDefault();
  buttons[at + step]?.focus();
}

export async function start(open) {
  onOpen = open;
  byId("more").onclick = loadMore;
  byId("gallery").onkeydown = moveFocus;
  await refresh();
}
