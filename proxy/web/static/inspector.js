// The inspector: one image, the request parameters, and the response.

import * as compare from "./compare.js";
import * as editor from "./editor.js";
import { announce, byId, chosen, json, make, option, segments } from "./dom.js";
import { NAMES, bytes, formatOf, origin, percent, time } from "./format.js";
import { explainFormat, fetchImage, imageUrl, waitForFinal } from "./requests.js";
import * as snippets from "./snippets.js";
import { paint } from "./thumbhash.js";

const dialog = byId("inspector");
const image = byId("image");
let current = null;
// Null until the description of `current` has loaded.
let info = null;
let running = new AbortController();
// Counts opened and closed images: `running` is replaced by each request for one, too.
let visits = 0;
let shown = null;
let listed = () => [];
let onClose = () => {};
let onChange = () => {};
// Whether the user has chosen a background: until then it is the default of each image.
let choseBackground = false;

function fact(name, text) {
  dialog.querySelector(`[data-fact="${name}"]`).textContent = text;
}

function stage(kind, text) {
  byId("stage").dataset.stage = kind;
  byId("stage").textContent = { draft: "Draft", fallback: "Fallback", final: "Final", loading: "Loading …" }[kind] ?? "";
  byId("stage-note").textContent = text;
  byId("figure").setAttribute("aria-busy", String(kind === "loading"));
}

function showError(text) {
  byId("error").hidden = !text;
  byId("error").textContent = text ?? "";
}

function showNotice(text) {
  byId("notice").hidden = !text;
  byId("notice").textContent = text;
  if (text) announce(text);
}

function parameters() {
  const size = byId("size").value;
  return {
    size,
    w: size === "" ? byId("width").value : null,
    dpr: chosen(byId("dpr")),
    bg: chosen(byId("bg")),
    defaultBg: info.background,
    format: chosen(byId("format")),
    v: info.version,
  };
}

const keepsBackground = (response) => response.headers.has("Smartserve-Background");

const isTransparent = (response, { bg }) => info.transparent || (bg === "removed" && !keepsBackground(response));

function listHeaders(headers) {
  const rows = [...headers].map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: value })),
  );
  byId("headers").replaceChildren(...rows);
}

// Remove what describes an earlier response, so that nothing on the page belongs to another request.
function clearFacts() {
  for (const name of ["format", "bytes", "pixels", "time"]) fact(name, "–");
  byId("origin").textContent = "";
  byId("headers").replaceChildren();
  byId("why-text").textContent = "";
  byId("why-accept-part").hidden = true;
  showError(null);
  showNotice("");
}

function hideImage() {
  if (shown) URL.revokeObjectURL(shown);
  shown = null;
  image.classList.remove("there");
  image.removeAttribute("src");
  byId("frame").classList.remove("transparent");
}

async function display(response, requested, signal) {
  const url = URL.createObjectURL(response.blob);
  const loaded = new Image();
  loaded.src = url;
  const format = formatOf(response.headers.get("Content-Type"));
  try {
    await loaded.decode();
    // Another request may have started meanwhile.
    signal.throwIfAborted();
  } catch (error) {
    URL.revokeObjectURL(url);
    if (signal.aborted) throw error;
    throw new Error(`This browser cannot display ${NAMES[format] ?? format}. Select another format.`);
  }
  hideImage();
  shown = url;
  image.src = url;
  image.style.width = `${loaded.naturalWidth / requested.dpr}px`;
  image.classList.add("there");
  byId("frame").classList.toggle("transparent", isTransparent(response, requested));
  byId("blur").classList.add("gone");
  fact("format", NAMES[format] ?? format);
  fact("bytes", bytes(response.blob.size));
  fact("pixels", `${loaded.naturalWidth} × ${loaded.naturalHeight}`);
  fact("time", time(response.seconds));
  byId("origin").textContent = origin(response.headers.get("Cache-Status"), response.headers.get("Server-Timing"));
  listHeaders(response.headers);
  explain(response, requested, signal).catch(() => {});
}

const BACKGROUND_KEPT =
  "The background was not removed: the border of this image is not uniform. This is the original.";
const STAGE_NOTES = {
  draft: "Encoded fast, to respond quickly. A smaller file, the final, will replace it.",
  fallback: "The nearest stored image, because this one is not available yet. It will be replaced.",
  final: "",
};

async function replaceWhenFinal(first, requested, signal) {
  const start = performance.now();
  const final = await waitForFinal(first, signal);
  if (!final) {
    stage(first.stage, "There is no final yet. The server renders it when it is idle; open the image again later.");
    return;
  }
  await display(final, requested, signal);
  const waited = time((performance.now() - start) / 1000);
  const saved = 1 - final.blob.size / first.blob.size;
  const compared = first.stage === "draft" ? `: ${bytes(final.blob.size)} instead of ${bytes(first.blob.size)}` : "";
  const smaller = first.stage === "draft" && saved > 0.005 ? `, ${percent(saved)} smaller` : "";
  const text = `Ready after ${waited}${compared}${smaller}.`;
  stage("final", text);
  announce(`The final is ready. ${text}`);
}

async function update() {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  const requested = parameters();
  const url = imageUrl(current.id, requested);
  byId("url").textContent = url;
  clearFacts();
  stage("loading", "");
  try {
    const response = await fetchImage(url, { signal });
    await display(response, requested, signal);
    stage(response.stage, STAGE_NOTES[response.stage]);
    if (keepsBackground(response)) showNotice(BACKGROUND_KEPT);
    if (response.stage !== "final") await replaceWhenFinal(response, requested, signal);
  } catch (error) {
    if (signal.aborted) return;
    hideImage();
    stage("none", "");
    showError(error.message);
  }
}

// Return the id of the open image, or null.
export const shownId = () => (dialog.open ? current.id : null);

function enableCopying() {
  for (const button of dialog.querySelectorAll("[data-copy]")) button.disabled = !info;
}

function showDefaultBackground() {
  if (!choseBackground) byId("bg").querySelector(`[value="${info.background}"]`).checked = true;
}

function changed(event) {
  if (event?.target.name === "bg") choseBackground = true;
  byId("width-field").hidden = byId("size").value !== "";
  const removed = chosen(byId("bg")) === "removed";
  const jpeg = byId("format").querySelector('[value="jpeg"]');
  jpeg.disabled = removed;
  if (removed && jpeg.checked) byId("format").querySelector('[value="auto"]').checked = true;
  // The choices are applied once the description has loaded.
  if (!info) return;
  byId("compare").classList.toggle("transparent", info.transparent || removed);
  snippets.show(info, parameters());
  update();
  if (event?.target.name !== "format") compare.show(current.id, { ...parameters(), format: null }, info.formats.served);
}

function fillSizes() {
  const sizes = Object.entries(info.dimensions).map(([name, { width, height }]) =>
    option(name, `${name}, ${width} × ${height}`),
  );
  const before = byId("size").value;
  byId("size").replaceChildren(...sizes, option("", "custom width …"));
  byId("size").value = before in info.dimensions ? before : "detail";
  const steps = info.srcset.auto.split(", ").map((one) => /w=(\d+).* (\d+)w$/.exec(one).slice(1));
  byId("width").replaceChildren(...steps.map(([value, width]) => option(value, `w=${value}, ${width} px wide`)));
  byId("width").value = steps.find(([value]) => value >= 640)?.[0] ?? steps.at(-1)[0];
}

const named = (found) => [...new Set(found?.map(({ name }) => name))].join(", ");

// Google Vision rates each kind of content; the usual "unlikely" is not worth a line.
function unsafe(rated) {
  const likely = Object.entries(rated ?? {}).filter(([, one]) => ["POSSIBLE", "LIKELY", "VERY_LIKELY"].includes(one));
  return likely.map(([kind, one]) => `${kind}: ${one.toLowerCase().replace("_", " ")}`).join(", ");
}

function showAnalysis() {
  const colours = info.dominant_colors.map(({ hex, percent: share }) => {
    const swatch = make("span", { title: `${hex}, ${Math.round(share)} %`, role: "img", "aria-label": `${hex}, ${Math.round(share)} percent` });
    swatch.style.background = hex;
    swatch.style.flexGrow = share;
    return swatch;
  });
  byId("colours").replaceChildren(...colours);
  const { analysis } = info;
  const rows = {
    "Original": `${info.width} × ${info.height}`,
    "Type": analysis.kind,
    "Quality": `${analysis.quality_score} / 100`,
    "Mood": analysis.mood_keywords.join(", "),
    "Style": analysis.style,
    "Medium": analysis.medium,
    "Description": info.alt,
    "Labels": named(analysis.labels),
    "Objects": named(analysis.detected_objects),
    "Brands": named(analysis.detected_logos),
    "Text": analysis.detected_text,
    "Unsafe content": unsafe(analysis.safe_search),
    "Brand colors": analysis.brand_colors?.join(", "),
    "Site image": analysis.site_context?.content_class?.name,
    "ThumbHash": info.placeholders.thumbhash,
  };
  const shownRows = Object.entries(rows).filter(([, value]) => value);
  byId("analysis").replaceChildren(
    ...shownRows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]),
  );
}

// Show why this response has its format. The Accept header counts only if none was requested.
async function explain(response, requested, signal) {
  const format = formatOf(response.headers.get("Content-Type"));
  if (requested.format !== "auto") {
    byId("why-text").textContent = `${NAMES[requested.format]} was requested by name, so the Accept header does not count.`;
    return;
  }
  const kind = { transparent: isTransparent(response, requested), animated: info.animated };
  const explanation = await explainFormat(kind, signal);
  signal.throwIfAborted();
  const other = format === explanation.chosen ? "" : ` ${OTHER_FORMAT[response.stage](format, explanation.chosen)}`;
  byId("why-text").textContent = `${explanation.why}${other}`;
  byId("why-accept").textContent = explanation.exact ? explanation.accept : `${explanation.accept}\n(typical value; this browser does not report its own)`;
  byId("why-formats").replaceChildren(
    ...explanation.formats.map(({ format: one, verdict }) => {
      const given = other && one === format ? "sent" : other && verdict === "sent" ? "not sent this time" : verdict;
      const className = one === format ? "chosen" : "";
      return make("li", { className }, make("b", { textContent: NAMES[one] }), make("span", { textContent: given }));
    }),
  );
  byId("why-accept-part").hidden = false;
}

const OTHER_FORMAT = {
  draft: (format) => `This draft is ${NAMES[format]}.`,
  fallback: (format) => `This fallback is ${NAMES[format]}, because it was stored already.`,
  final: (format, chosen) =>
    `This final is ${NAMES[format]}, because its file is smaller than that of ${NAMES[chosen]} (encoders.prefer_smallest).`,
};

function placeholder(one) {
  const blur = byId("blur");
  blur.classList.remove("gone");
  if (one.thumbhash) paint(blur, one.thumbhash);
  else blur.width = 0;
  const ratio = one.width ? one.width / one.height : 1;
  blur.style.aspectRatio = String(ratio);
  blur.style.height = `min(100%, calc(${100 / ratio}cqw))`;
}

function step(by) {
  const list = listed();
  const at = list.findIndex((one) => one.id === current.id);
  const other = at < 0 ? null : list[at + by];
  if (other) open(other);
}

// Remove everything that describes the image before, and end its requests.
function clear() {
  visits += 1;
  running.abort();
  running = new AbortController();
  info = null;
  clearFacts();
  hideImage();
  stage("none", "");
  byId("url").textContent = "";
  for (const one of byId("size").options) one.textContent = one.value || "custom width …";
  for (const id of ["colours", "analysis"]) byId(id).replaceChildren();
  compare.stop();
  snippets.clear();
  editor.clear();
  byId("copy-fault").hidden = true;
  enableCopying();
}

export async function open(one) {
  clear();
  const { signal } = running;
  current = one;
  const list = listed();
  const at = list.findIndex(({ id }) => id === one.id);
  byId("previous").disabled = at <= 0;
  byId("next").disabled = at < 0 || at === list.length - 1;
  byId("inspector-title").textContent = one.name || `Image ${one.id}`;
  image.alt = one.name || `Image ${one.id}`;
  placeholder(one);
  stage("loading", "");
  if (!dialog.open) {
    dialog.showModal();
    dialog.querySelector(".body").scrollTop = 0;
    byId("inspector-title").focus();
  }
  history.replaceState(null, "", `#${one.id}`);
  try {
    const found = await json(`/info/${one.id}`, { signal });
    // A dialog sends its close event, which aborts `signal`, some time after it has closed.
    if (signal.aborted || !dialog.open) return;
    info = found;
    if (!one.thumbhash) placeholder({ ...one, ...info, thumbhash: info.placeholders.thumbhash });
    showDescription();
    enableCopying();
  } catch (error) {
    if (signal.aborted) return;
    stage("none", "");
    showError(error.message);
  }
}

function showDescription() {
  fillSizes();
  showAnalysis();
  showDefaultBackground();
  changed();
  editor.show(info);
}

// Show the open image again after its editor has changed it.
export async function refresh() {
  const { id } = current;
  const visit = visits;
  const found = await json(`/info/${id}`);
  onChange(id, found.version);
  // Another image is open, or the same one again, which loads by itself.
  if (visit !== visits || shownId() !== id) return;
  info = found;
  choseBackground = false;
  showDescription();
}

function keys(event) {
  const usesArrows = event.target.closest("input, select, textarea, .pairing, pre, .scroll");
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!usesArrows && by && !event.altKey && !event.ctrlKey && !event.metaKey) step(by);
}

// Copy a text. Without a clipboard (an address without HTTPS, or no permission) the older command of
// browsers may still work. Return whether it was copied.
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const provide = (event) => {
      event.clipboardData.setData("text/plain", text);
      event.preventDefault();
    };
    document.addEventListener("copy", provide, { once: true });
    const copied = document.execCommand("copy");
    document.removeEventListener("copy", provide);
    return copied;
  }
}

async function copy(event) {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = byId(button.dataset.copy);
  const before = source.textContent;
  const text = button.dataset.copy === "url" ? new URL(before, location.href).href : before;
  const copied = await copyText(text);
  button.classList.toggle("copied", copied);
  button.textContent = copied ? "Copied" : "Not copied";
  byId("copy-fault").hidden = copied;
  if (copied) announce("Copied");
  else {
    // Selected, so that the user can copy it by keyboard.
    if (source.textContent === before) source.textContent = text;
    getSelection().selectAllChildren(source);
    button.parentElement.after(byId("copy-fault"));
    announce(byId("copy-fault").textContent);
  }
  setTimeout(() => {
    button.classList.remove("copied");
    button.textContent = "Copy";
  }, 1500);
}

export function start(list, close, change) {
  listed = list;
  onClose = close;
  onChange = change;
  segments(byId("format"), "format", [["auto", "auto"], ...["avif", "webp", "jpeg", "png"].map((one) => [one, NAMES[one]])], "auto");
  segments(byId("dpr"), "dpr", ["1", "1.5", "2", "3"].map((one) => [one, `${one}×`]), "1");
  segments(byId("bg"), "bg", [["original", "original"], ["removed", "removed"]], "original");
  compare.start();
  snippets.start();
  byId("parameters").onchange = changed;
  byId("parameters").onsubmit = (event) => event.preventDefault();
  byId("close").onclick = () => dialog.close();
  byId("previous").onclick = () => step(-1);
  byId("next").onclick = () => step(1);
  dialog.onkeydown = keys;
  dialog.onclick = (event) => {
    if (event.target !== dialog) copy(event);
    // The second click of a double click on a tile may hit the backdrop.
    else if (event.detail < 2) dialog.close();
  };
  dialog.onclose = () => {
    clear();
    history.replaceState(null, "", location.pathname);
    onClose(current?.id);
  };
}
