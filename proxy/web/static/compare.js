// All formats of one size: how many bytes each takes, and two of them over each other.

import { address, ask, awaitFinal } from "./asking.js";
import { byId, make, option } from "./dom.js";
import { NAMES, bytes, percent } from "./words.js";

let answers = new Map();
let urls = new Map();
let running = new AbortController();

function forget() {
  running.abort();
  running = new AbortController();
  for (const url of urls.values()) URL.revokeObjectURL(url);
  answers = new Map();
  urls = new Map();
  for (const id of ["under", "over"]) byId(id).removeAttribute("src");
}

function bar(format, largest, smallest) {
  const answer = answers.get(format);
  const size = answer?.blob.size;
  const less = !size ? "…" : size === largest ? "the largest" : `${percent(1 - size / largest)} less`;
  const stage = answer?.draft ? `${less}, a draft` : less;
  const fill = make("i");
  fill.style.width = size ? `${(size / largest) * 100}%` : "0";
  return make(
    "li",
    { className: size === smallest ? "best" : "" },
    make("b", { textContent: NAMES[format] }),
    make("span", { className: "track", "aria-hidden": "true" }, fill),
    make("span", { className: "bytes", textContent: size ? bytes(size) : "…" }),
    make("span", { className: "less", textContent: answer ? `${stage}` : "being rendered" }),
  );
}

function draw(formats) {
  const sizes = [...answers.values()].map((one) => one.blob.size);
  const largest = Math.max(...sizes);
  const smallest = Math.min(...sizes);
  byId("bars").replaceChildren(...formats.map((format) => bar(format, largest, smallest)));
}

function lay() {
  const left = byId("left").value;
  const right = byId("right").value;
  for (const [id, format] of [["over", left], ["under", right]]) {
    const url = urls.get(format);
    if (url && byId(id).src !== url) byId(id).src = url;
    byId(id).alt = `As ${NAMES[format] ?? format}`;
  }
}

function choose(formats) {
  const before = [byId("left").value, byId("right").value];
  for (const [at, id] of ["left", "right"].entries()) {
    byId(id).replaceChildren(...formats.map((one) => option(one, NAMES[one])));
    const usual = at === 0 ? formats.at(-1) : formats[0];
    byId(id).value = formats.includes(before[at]) ? before[at] : usual;
  }
}

function keep(format, answer, formats) {
  answers.set(format, answer);
  if (urls.has(format)) URL.revokeObjectURL(urls.get(format));
  urls.set(format, URL.createObjectURL(answer.blob));
  draw(formats);
  lay();
}

async function one(id, wish, format, formats, signal) {
  const answer = await ask(address(id, { ...wish, format }), { signal });
  keep(format, answer, formats);
  if (!answer.draft) return;
  const final = await awaitFinal(answer, signal);
  if (final) keep(format, final, formats);
}

// Ask for all formats of what is wished for, the finals of drafts later.
export function show(id, wish, served) {
  forget();
  const formats = served.filter((one) => one !== "gif" && !(wish.bg === "removed" && one === "jpeg"));
  byId("compare").hidden = formats.length < 2;
  choose(formats);
  draw(formats);
  const { signal } = running;
  for (const format of formats) one(id, wish, format, formats, signal).catch(() => {});
}

export const stop = forget;

export function start() {
  const sheet = byId("pair");
  const zoom = () => {
    const chosen = byId("zoom").value;
    sheet.classList.toggle("fit", chosen === "fit");
    sheet.classList.toggle("near", Number(chosen) > 1);
    sheet.style.setProperty("--scale", chosen === "fit" ? 1 : Number(chosen) / devicePixelRatio);
    split();
  };
  // Of what is in view, so that the seam stays there however far one has zoomed in and scrolled.
  const split = () => {
    const seen = Math.min(sheet.clientWidth, sheet.firstElementChild.offsetWidth);
    const at = sheet.scrollLeft + (seen * byId("split").value) / 100;
    sheet.style.setProperty("--split", `${at}px`);
  };
  byId("under").onload = (event) => {
    sheet.style.setProperty("--across", event.target.naturalWidth);
    split();
  };
  sheet.onscroll = split;
  new ResizeObserver(split).observe(sheet.firstElementChild);
  byId("zoom").onchange = zoom;
  byId("split").oninput = split;
  byId("left").onchange = byId("right").onchange = lay;
  zoom();
  split();
}
