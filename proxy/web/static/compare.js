// Compares all formats of one size: their file sizes, and two of them pixel by pixel.

import { fetchImage, imageUrl, waitForFinal } from "./requests.js";
import { byId, make, option } from "./dom.js";
import { NAMES, bytes, percent } from "./format.js";

let responses = new Map();
let failures = new Map();
// What the user selected; kept for the next image if that has the format.
const wanted = { left: null, right: null };
const before = { left: null, right: null };
let urls = new Map();
let running = new AbortController();

function reset() {
  running.abort();
  running = new AbortController();
  for (const url of urls.values()) URL.revokeObjectURL(url);
  responses = new Map();
  failures = new Map();
  urls = new Map();
  for (const id of ["under", "over"]) byId(id).removeAttribute("src");
}

function bar(format, largest, smallest) {
  const response = responses.get(format);
  const size = response?.blob.size;
  const failure = failures.get(format);
  const saving = !size ? "…" : size === largest ? "largest" : `${percent(1 - size / largest)} smaller`;
  const stage = response && response.stage !== "final" ? `${saving}, ${response.stage}` : saving;
  const fill = make("i");
  fill.style.width = size ? `${(size / largest) * 100}%` : "0";
  return make(
    "li",
    { className: size === smallest ? "best" : "" },
    make("b", { textContent: NAMES[format] }),
    make("span", { className: "track", "aria-hidden": "true" }, fill),
    make("span", { className: "bytes", textContent: size ? bytes(size) : failure ? "–" : "…" }),
    make("span", { className: "less", textContent: response ? stage : (failure ?? "rendering") }),
  );
}

function draw(formats) {
  const sizes = [...responses.values()].map((one) => one.blob.size);
  const largest = Math.max(...sizes);
  const smallest = Math.min(...sizes);
  byId("bars").replaceChildren(...formats.map((format) => bar(format, largest, smallest)));
}

function showPair() {
  const left = byId("left").value;
  const right = byId("right").value;
  Object.assign(before, { left, right });
  for (const [id, format] of [["over", left], ["under", right]]) {
    const url = urls.get(format);
    if (!url) byId(id).removeAttribute("src");
    else if (byId(id).src !== url) byId(id).src = url;
    byId(id).alt = `${NAMES[format] ?? format} version`;
  }
}

function fillSelects(formats) {
  const initial = { left: formats.at(-1), right: formats[0] };
  for (const side of ["left", "right"]) {
    byId(side).replaceChildren(...formats.map((one) => option(one, NAMES[one])));
    byId(side).value = formats.includes(wanted[side]) ? wanted[side] : initial[side];
  }
  // A kept choice may equal the other side's initial one.
  if (byId("left").value !== byId("right").value) return;
  const kept = formats.includes(wanted.left) ? "left" : "right";
  const other = kept === "left" ? "right" : "left";
  byId(other).value = formats.findLast((one) => one !== byId(kept).value) ?? byId(kept).value;
}

// A format is not compared with itself: the other side gets the one that this side had.
function select(side) {
  const other = side === "left" ? "right" : "left";
  if (byId(other).value === byId(side).value) byId(other).value = before[side];
  Object.assign(wanted, { left: byId("left").value, right: byId("right").value });
  showPair();
}

function add(format, response, formats) {
  responses.set(format, response);
  if (urls.has(format)) URL.revokeObjectURL(urls.get(format));
  urls.set(format, URL.createObjectURL(response.blob));
  draw(formats);
  showPair();
}

async function load(id, parameters, format, formats, signal) {
  const response = await fetchImage(imageUrl(id, { ...parameters, format }), { signal });
  // Another image may be shown by now.
  signal.throwIfAborted();
  add(format, response, formats);
  if (response.stage === "final") return;
  const final = await waitForFinal(response, signal);
  signal.throwIfAborted();
  if (final) add(format, final, formats);
}

// Request all formats with these parameters; each draft is replaced by its final later.
export function show(id, parameters, served) {
  reset();
  const formats = served.filter((one) => one !== "gif" && !(parameters.bg === "removed" && one === "jpeg"));
  byId("compare").hidden = formats.length < 2;
  fillSelects(formats);
  draw(formats);
  showPair();
  const { signal } = running;
  for (const format of formats) {
    load(id, parameters, format, formats, signal).catch((error) => {
      // A final that could not be polled for leaves its draft.
      if (signal.aborted || responses.has(format)) return;
      failures.set(format, error.message);
      draw(formats);
    });
  }
}

// Remove everything that describes the image before.
export function stop() {
  reset();
  byId("bars").replaceChildren();
  byId("compare").hidden = true;
}

export function start() {
  const pane = byId("pair");
  const updateZoom = () => {
    const chosen = byId("zoom").value;
    pane.classList.toggle("fit", chosen === "fit");
    pane.classList.toggle("near", Number(chosen) > 1);
    pane.style.setProperty("--scale", chosen === "fit" ? 1 : Number(chosen) / devicePixelRatio);
    split();
  };
  // Relative to the visible part, so that the divider stays in view while zooming and scrolling.
  const split = () => {
    const visible = Math.min(pane.clientWidth, pane.firstElementChild.offsetWidth);
    const at = pane.scrollLeft + (visible * byId("split").value) / 100;
    pane.style.setProperty("--split", `${at}px`);
  };
  byId("under").onload = (event) => {
    pane.style.setProperty("--across", event.target.naturalWidth);
    split();
  };
  pane.onscroll = split;
  new ResizeObserver(split).observe(pane.firstElementChild);
  byId("zoom").onchange = updateZoom;
  byId("split").oninput = split;
  for (const side of ["left", "right"]) byId(side).onchange = () => select(side);
  updateZoom();
  split();
}
