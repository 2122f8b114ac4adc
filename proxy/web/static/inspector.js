// The inspector: one picture, whatever may be asked for of it, and what comes back.

import { address, ask, awaitFinal, whyFormat } from "./asking.js";
import * as compare from "./compare.js";
import { byId, chosen, json, make, option, say, segments } from "./dom.js";
import * as snippets from "./snippets.js";
import { paint } from "./thumbhash.js";
import { NAMES, bytes, formatOf, origin, percent, time } from "./words.js";

const dialog = byId("inspector");
const picture = byId("picture");
let current = null;
let running = new AbortController();
let shown = null;
let neighbours = () => [];
let closed = () => {};

function fact(name, text) {
  dialog.querySelector(`[data-fact="${name}"]`).textContent = text;
}

function stage(kind, text) {
  byId("stage").dataset.stage = kind;
  byId("stage").textContent = { draft: "Draft", final: "Final", asking: "Asking …" }[kind] ?? "";
  byId("stage-told").textContent = text;
}

function fault(text) {
  byId("fault").hidden = !text;
  byId("fault").textContent = text ?? "";
}

function wish() {
  const size = byId("size").value;
  return {
    size,
    w: size === "" ? byId("width").value : null,
    dpr: chosen(byId("dpr")),
    bg: chosen(byId("bg")),
    format: chosen(byId("format")),
    v: current.told?.version ?? current.version,
  };
}

const seenThrough = () => Boolean(current.told?.transparent) || chosen(byId("bg")) === "removed";

function listHeaders(headers) {
  const rows = [...headers].map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: value })),
  );
  byId("headers").replaceChildren(...rows);
}

async function display(answer, dpr) {
  const url = URL.createObjectURL(answer.blob);
  const loaded = new Image();
  loaded.src = url;
  await loaded.decode().catch(() => {});
  if (shown) URL.revokeObjectURL(shown);
  shown = url;
  picture.src = url;
  picture.style.width = `${loaded.naturalWidth / dpr}px`;
  picture.classList.add("there");
  byId("frame").classList.toggle("seen-through", seenThrough());
  byId("blur").classList.add("gone");
  const format = formatOf(answer.headers.get("Content-Type"));
  fact("format", NAMES[format] ?? format);
  fact("bytes", bytes(answer.blob.size));
  fact("pixels", `${loaded.naturalWidth} × ${loaded.naturalHeight}`);
  fact("time", time(answer.seconds));
  byId("origin").textContent = origin(answer.headers.get("Cache-Status"), answer.headers.get("Server-Timing"));
  listHeaders(answer.headers);
}

function tell(answer) {
  if (answer.headers.get("Smartserve-Background")) {
    return "This picture has no flat background that could be cut out: the original.";
  }
  if (/fallback/.test(answer.headers.get("Cache-Status") ?? "")) return "Another size stands in.";
  return "";
}

async function follow(draft, dpr, signal) {
  stage("draft", "Quick to make; a smaller final is on its way.");
  const began = performance.now();
  const final = await awaitFinal(draft, signal);
  if (!final) return;
  await display(final, dpr);
  const waited = time((performance.now() - began) / 1000);
  const saved = 1 - final.blob.size / draft.blob.size;
  const told = `Here after ${waited}: ${bytes(final.blob.size)} in place of ${bytes(draft.blob.size)}${
    saved > 0.005 ? `, ${percent(saved)} less` : ""
  }.`;
  stage("final", told);
  say(`The final is here. ${told}`);
}

async function update() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const asked = wish();
  const url = address(current.id, asked);
  byId("url").textContent = url;
  fault(null);
  stage("asking", "");
  try {
    const answer = await ask(url, { signal });
    await display(answer, Number(asked.dpr));
    if (signal.aborted) return;
    if (answer.draft) await follow(answer, Number(asked.dpr), signal);
    else stage("final", tell(answer));
  } catch (error) {
    if (signal.aborted) return;
    stage("none", "");
    fault(error.message);
  }
}

function changed(event) {
  byId("width-field").hidden = byId("size").value !== "";
  const removed = chosen(byId("bg")) === "removed";
  const jpeg = byId("format").querySelector('[value="jpeg"]');
  jpeg.disabled = removed;
  if (removed && jpeg.checked) byId("format").querySelector('[value="auto"]').checked = true;
  byId("compare").classList.toggle("seen-through", seenThrough());
  update();
  if (event?.target.name !== "format") compare.show(current.id, { ...wish(), format: null }, current.told.formats.served);
}

function fill(told) {
  const sizes = Object.entries(told.dimensions).map(([name, { width, height }]) =>
    option(name, `${name}, ${width} × ${height}`),
  );
  const before = byId("size").value;
  byId("size").replaceChildren(...sizes, option("", "by width …"));
  byId("size").value = before in told.dimensions ? before : "detail";
  const rungs = told.srcset.auto.split(", ").map((one) => /w=(\d+).* (\d+)w$/.exec(one).slice(1));
  byId("width").replaceChildren(...rungs.map(([rung, width]) => option(rung, `w=${rung}, gives ${width} px`)));
  byId("width").value = rungs.find(([rung]) => rung >= 640)?.[0] ?? rungs.at(-1)[0];
}

function known(told) {
  const colours = told.dominant_colors.map(({ hex, percent: share }) => {
    const swatch = make("span", { title: `${hex}, ${Math.round(share)} %`, role: "img", "aria-label": `${hex}, ${Math.round(share)} per cent` });
    swatch.style.background = hex;
    swatch.style.flexGrow = share;
    return swatch;
  });
  byId("colours").replaceChildren(...colours);
  const { analysis } = told;
  const rows = {
    "Original": `${told.width} × ${told.height}`,
    "Kind": analysis.kind,
    "Quality": `${analysis.quality_score} of 100`,
    "Mood": analysis.mood_keywords.join(", "),
    "Style": analysis.style,
    "Shows": told.alt,
    "ThumbHash": told.placeholders.thumbhash,
  };
  const shownRows = Object.entries(rows).filter(([, value]) => value);
  byId("analysis").replaceChildren(
    ...shownRows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]),
  );
}

async function explain() {
  const told = await whyFormat();
  byId("why-told").textContent = told.why;
  byId("why-accept").textContent = told.sure ? told.accept : `${told.accept}\n(as most browsers do; this one does not tell)`;
  byId("why-formats").replaceChildren(
    ...told.formats.map(({ format, verdict }) =>
      make(
        "li",
        { className: format === told.chosen ? "chosen" : "" },
        make("b", { textContent: NAMES[format] }),
        make("span", { textContent: verdict }),
      ),
    ),
  );
}

function placeholder(one) {
  const blur = byId("blur");
  picture.classList.remove("there");
  picture.removeAttribute("src");
  byId("frame").classList.remove("seen-through");
  blur.classList.remove("gone");
  if (one.thumbhash) paint(blur, one.thumbhash);
  else blur.width = 0;
  const ratio = one.width ? one.width / one.height : 1;
  blur.style.aspectRatio = String(ratio);
  blur.style.height = `min(100%, calc(${100 / ratio}cqw))`;
}

function step(by) {
  const list = neighbours();
  const at = list.findIndex((one) => one.id === current.id);
  const other = at < 0 ? null : list[at + by];
  if (other) open(other);
}

export async function open(one) {
  current = one;
  const list = neighbours();
  const at = list.findIndex(({ id }) => id === one.id);
  byId("previous").disabled = at <= 0;
  byId("next").disabled = at < 0 || at === list.length - 1;
  byId("inspector-title").textContent = one.name || `Picture ${one.id}`;
  picture.alt = one.name || `Picture ${one.id}`;
  for (const name of ["format", "bytes", "pixels", "time"]) fact(name, "–");
  byId("origin").textContent = "";
  byId("headers").replaceChildren();
  fault(null);
  placeholder(one);
  if (!dialog.open) {
    dialog.showModal();
    byId("inspector-title").focus();
  }
  history.replaceState(null, "", `#${one.id}`);
  try {
    const told = await json(`/info/${one.id}`);
    if (current !== one) return;
    current.told = told;
    if (!one.thumbhash) placeholder({ ...one, ...told, thumbhash: told.placeholders.thumbhash });
    fill(told);
    known(told);
    snippets.show(told);
    changed();
  } catch (error) {
    if (current === one) fault(error.message);
  }
}

function keys(event) {
  const steering = event.target.closest("input, select, .pairing, pre, .scroll");
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!steering && by && !event.altKey && !event.ctrlKey && !event.metaKey) step(by);
}

async function copy(event) {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = byId(button.dataset.copy).textContent;
  const whole = button.dataset.copy === "url" ? location.origin + text : text;
  await navigator.clipboard.writeText(whole).catch(() => {});
  button.classList.add("copied");
  button.textContent = "Copied";
  say("Copied");
  setTimeout(() => {
    button.classList.remove("copied");
    button.textContent = "Copy";
  }, 1500);
}

export function start(list, onClose) {
  neighbours = list;
  closed = onClose;
  segments(byId("format"), "format", [["auto", "auto"], ...["avif", "webp", "jpeg", "png"].map((one) => [one, NAMES[one]])], "auto");
  segments(byId("dpr"), "dpr", ["1", "1.5", "2", "3"].map((one) => [one, `${one}×`]), "1");
  segments(byId("bg"), "bg", [["original", "original"], ["removed", "removed"]], "original");
  compare.start();
  snippets.start();
  explain().catch(() => {});
  byId("ask").onchange = changed;
  byId("ask").onsubmit = (event) => event.preventDefault();
  byId("close").onclick = () => dialog.close();
  byId("previous").onclick = () => step(-1);
  byId("next").onclick = () => step(1);
  dialog.onkeydown = keys;
  dialog.onclick = (event) => (event.target === dialog ? dialog.close() : copy(event));
  dialog.onclose = () => {
    running.abort();
    compare.stop();
    history.replaceState(null, "", location.pathname);
    closed(current?.id);
  };
}
