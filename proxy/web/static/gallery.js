// The gallery: the newest images as tiles, each with a placeholder until it has loaded.

import { byId, json, make } from "./dom.js";
import { paint } from "./thumbhash.js";

const PAGE = 40;
const BATCH = 8;
const images = [];
const tiles = new Map();
let next = null;
// Settles when the running request has changed the gallery. Requests take turns: two at once would
// add the same images twice.
let turn = Promise.resolve();
let onOpen = () => {};

export const all = () => images;
export const focusTile = (id) => tiles.get(id)?.focus();

// Return the highest id, or 0.
export const newest = () => images[0]?.id ?? 0;
export const find = (id) => images.find((one) => one.id === id);

function inTurn(work) {
  const result = turn.then(work);
  turn = result.catch(() => {});
  return result;
}

function thumbnail(image) {
  const version = image.version ? `&v=${image.version}` : "";
  return `/serve/${image.id}?size=thumbnail${version}`;
}

// Show the thumbnail of another version of an image.
export function replaceThumbnail(id, version) {
  const image = find(id);
  if (!image) return;
  image.version = version;
  tiles.get(id).querySelector("img").src = thumbnail(image);
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
  thumb.onerror = () => {
    button.classList.add("broken");
    button.setAttribute("aria-label", `Inspect ${name(image)}, which cannot be shown`);
  };
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
  byId("more").textContent = "Load more";
  showError("");
}

// Return the next page that has images, or the last one. A page may be empty before the end: private
// images are left out.
async function loadPage(before) {
  const query = before === null ? "" : `&before=${before}`;
  const found = await json(`/api/gallery?limit=${PAGE}${query}`);
  return found.pictures.length || found.next === null ? found : loadPage(found.next);
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

function add(found, { first }) {
  const added = found.filter((one) => !tiles.has(one.id));
  const items = added.map(tile);
  if (first) {
    images.unshift(...added);
    byId("gallery").prepend(...items);
  } else {
    images.push(...added);
    byId("gallery").append(...items);
  }
  count();
  loadPlaceholders(added).catch(() => {});
  return items;
}

function showError(text) {
  byId("gallery-error").hidden = !text;
  byId("gallery-error").textContent = text;
}

// Insert images that are newer than the first tile.
export function refresh() {
  return inTurn(async () => {
    const page = await loadPage(null);
    const found = page.pictures;
    const overlaps = found.some((one) => tiles.has(one.id));
    if (!overlaps && (found.length || !images.length)) {
      next = page.next;
      // All are new: between them and the first tile there may be more, so the gallery begins anew.
      images.length = 0;
      tiles.clear();
      byId("gallery").replaceChildren();
    }
    // If images were removed, the page ends with some that are older than all tiles: "Load more" adds them.
    add(found.filter((one) => !images.length || one.id > newest()), { first: true });
  });
}

async function append() {
  const page = await loadPage(next);
  next = page.next;
  return add(page.pictures, { first: false });
}

let loading = false;

// Load the next page, or the first one if that failed.
async function loadMore() {
  if (loading) return;
  loading = true;
  const more = byId("more");
  more.setAttribute("aria-disabled", "true");
  more.textContent = "Loading …";
  try {
    const focused = document.activeElement === more;
    const [first] = images.length ? await inTurn(append) : [await refresh()];
    if (focused) (first?.querySelector("button") ?? byId("gallery")).focus();
  } catch (error) {
    showError(`The images could not be listed. ${error.message}`);
    more.hidden = false;
    more.textContent = "Retry";
  } finally {
    loading = false;
    more.removeAttribute("aria-disabled");
  }
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
  await loadMore();
}
