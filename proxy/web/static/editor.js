// The editor: focal point, crops of sizes, background and alternative texts of the open image.

import { announce, byId, chosen, json, make, option, segments } from "./dom.js";

const FOCUS = "";
const PREVIEW_PX = 120;

let enabled = false;
let sizes = [];
let onChange = async () => {};
// The description of the open image, and what is set for it; null until it has loaded.
let info = null;
let choices = null;
let running = new AbortController();
// Counts changes of the sliders by the user; `settled` is its value when they were last set to what is saved.
let moves = 0;
let settled = 0;

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const number = (id) => Number(byId(id).value);
const shape = (name) => info.dimensions[name].width / info.dimensions[name].height;
const url = (path = "choices") => `/api/media/${info.id}/${path}`;

function request(method, path, body) {
  const headers = { Authorization: `Bearer ${byId("key").value.trim()}` };
  if (body) headers["Content-Type"] = "application/json";
  const { signal } = running;
  return json(url(path), { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal });
}

function showError(text) {
  byId("editing-error").hidden = !text;
  byId("editing-error").textContent = text ?? "";
}

// Return the window that a crop keeps, as fractions of the image: the largest one of the shape
// within the image, or around a region. The server computes the same in whole pixels.
function kept(aspect, { x, y, region }) {
  const { width: across, height: down } = info;
  let width = region ? Math.max(region.width * across, region.height * down * aspect) : across;
  let height = region ? Math.max(region.height * down, (region.width * across) / aspect) : across / aspect;
  const shrink = Math.min(1, across / width, down / height);
  width *= shrink / across;
  height *= shrink / down;
  return { width, height, x: clamp(x - width / 2, 0, 1 - width), y: clamp(y - height / 2, 0, 1 - height) };
}

const centred = (region) => ({ x: region.x + region.width / 2, y: region.y + region.height / 2, region });

// Return what the sliders say: a point, and for a size also the region around it.
function edited() {
  const point = { x: number("across") / 100, y: number("down") / 100 };
  const name = chosen(byId("target"));
  if (name === FOCUS) return point;
  const whole = kept(shape(name), point);
  const zoom = number("zoom-in") / 100;
  const [width, height] = [whole.width * zoom, whole.height * zoom];
  const [x, y] = [clamp(point.x - width / 2, 0, 1 - width), clamp(point.y - height / 2, 0, 1 - height)];
  return centred({ x, y, width, height });
}

function place(element, { x, y, width, height }) {
  const sides = { left: x, top: y, width, height };
  for (const [side, part] of Object.entries(sides)) element.style[side] = `${part * 100}%`;
}

// Return what decides a size's crop, and its words; null: the server decides.
function source(name, target, draft) {
  if (name === target) return [draft, "crop"];
  if (choices.crops[name]) return [centred(choices.crops[name]), "crop"];
  if (target === FOCUS && draft) return [draft, "focal point"];
  return choices.focus ? [choices.focus, "focal point"] : [null, "automatic"];
}

function preview(name, target, draft) {
  const [position, words] = source(name, target, draft);
  const picture = make("img", { alt: "" });
  const frame = make("div", { className: "crop" }, picture);
  const item = make("li");
  item.style.width = `${PREVIEW_PX * shape(name)}px`;
  frame.style.aspectRatio = shape(name);
  if (position) {
    const { x, y, width, height } = kept(shape(name), position);
    picture.src = byId("whole").src;
    place(picture, { x: -x / width, y: -y / height, width: 1 / width, height: 1 / height });
  } else {
    picture.src = `/serve/${info.id}?size=${name}&v=${info.version}`;
    place(picture, { x: 0, y: 0, width: 1, height: 1 });
  }
  const note = make("span", { className: "note", textContent: words });
  item.append(frame, make("p", {}, make("b", { textContent: name }), " ", note));
  return item;
}

function move() {
  moves += 1;
  draw(true);
}

// Draw the marker or the region, and all previews. `touched`: the sliders count, although nothing
// is saved yet.
function draw(touched) {
  const target = chosen(byId("target"));
  const saved = target === FOCUS ? choices.focus : choices.crops[target];
  const draft = touched || saved ? edited() : null;
  const position = edited();
  byId("marker").style.left = `${position.x * 100}%`;
  byId("marker").style.top = `${position.y * 100}%`;
  byId("region").hidden = target === FOCUS;
  if (target !== FOCUS) place(byId("region"), kept(shape(target), position));
  // A disabled button would lose the focus.
  if (!saved && document.activeElement === byId("automatic")) byId("set").focus();
  byId("automatic").disabled = !saved;
  byId("previews").replaceChildren(...sizes.map((name) => preview(name, target, draft)));
}

// Set the sliders to what is set for the target.
function select() {
  settled = moves;
  const target = chosen(byId("target"));
  const region = target === FOCUS ? null : choices.crops[target];
  const { x, y } = region ? centred(region) : (choices.focus ?? { x: 0.5, y: 0.5 });
  byId("across").value = x * 100;
  byId("down").value = y * 100;
  byId("zoom-field").hidden = target === FOCUS;
  const whole = region && kept(shape(target), { x, y });
  byId("zoom-in").value = region ? (kept(shape(target), centred(region)).width / whole.width) * 100 : 100;
  byId("set").textContent = target === FOCUS ? "Set focal point" : `Set crop of ${target}`;
  draw(false);
}

function showTexts() {
  const rows = Object.entries(choices.alt).map(([language, text]) => {
    const remove = make("button", { type: "button", textContent: "Delete", "aria-label": `Delete the text in ${language}` });
    remove.onclick = () => save("DELETE", `alt?lang=${encodeURIComponent(language)}`, null, `The text in ${language} is deleted.`);
    return make("li", {}, make("b", { textContent: language }), make("span", { lang: language, textContent: text || "(decoration)" }), remove);
  });
  const focused = [...byId("alt-texts").children].findIndex((row) => row.contains(document.activeElement));
  byId("alt-texts").replaceChildren(...rows);
  if (focused < 0) return;
  const row = rows[Math.min(focused, rows.length - 1)];
  (row?.querySelector("button") ?? byId("alt-language")).focus();
}

// `savedMoves` is the value of `moves` when a save of the sliders began; undefined if something else was
// saved. Moves that are not saved are kept.
function showChoices(savedMoves) {
  byId("editing").hidden = false;
  byId("unlock").hidden = true;
  byId("default-bg").querySelector(`[value="${choices.background ?? "original"}"]`).checked = true;
  showTexts();
  if (moves === settled || moves === savedMoves) select();
  else draw(true);
}

// Another image may be open after each `await`, and then `running` is another controller: neither the
// result nor an error belongs to it.
async function save(method, path, body, done, savedMoves) {
  const own = running;
  showError(null);
  try {
    const saved = await request(method, path, body);
    if (own !== running) return;
    choices = saved;
    await onChange();
    if (own !== running) return;
    showChoices(savedMoves);
    byId("editing-state").textContent = done;
    announce(done);
  } catch (error) {
    if (own !== running) return;
    showError(error.message);
    // The key may have been replaced.
    if (error.status === 401) byId("unlock").hidden = false;
  }
}

async function load() {
  const own = running;
  showError(null);
  try {
    const found = await request("GET");
    if (own !== running) return;
    choices = found;
    showChoices();
  } catch (error) {
    if (own !== running) return;
    showError(error.message);
    byId("unlock").hidden = false;
  }
}

const round = (value) => Math.round(value * 1e4) / 1e4;

function set() {
  const target = chosen(byId("target"));
  const { x, y, region } = edited();
  if (target === FOCUS) {
    save("PUT", "focus", { x: round(x), y: round(y) }, "The focal point is set. All sizes are rendered anew.", moves);
    return;
  }
  const box = Object.fromEntries(Object.entries(region).map(([name, value]) => [name, round(value)]));
  // Rounding must not place the region beyond the edge.
  box.x = round(Math.min(box.x, 1 - box.width));
  box.y = round(Math.min(box.y, 1 - box.height));
  save("PUT", `crops/${target}`, box, `The crop of ${target} is set.`, moves);
}

function automatic() {
  const target = chosen(byId("target"));
  const path = target === FOCUS ? "focus" : `crops/${target}`;
  const done = target === FOCUS ? "The focal point is detected again." : `The crop of ${target} is automatic again.`;
  save("DELETE", path, null, done, moves);
}

function point(event) {
  if (event.buttons !== 1) return;
  const box = byId("whole").getBoundingClientRect();
  byId("across").value = clamp((event.clientX - box.left) / box.width, 0, 1) * 100;
  byId("down").value = clamp((event.clientY - box.top) / box.height, 0, 1) * 100;
  event.preventDefault();
  move();
}

function saveText(event) {
  event.preventDefault();
  const language = byId("alt-language").value.trim();
  save("PUT", "alt", { [language]: byId("alt-text").value }, `The text in ${language} is saved.`);
}

// Show the editor of an image whose description has loaded.
export function show(found) {
  info = found;
  byId("editor").hidden = !enabled;
  if (!enabled) return;
  byId("whole").src = `/serve/${info.id}?w=640&bg=original&v=${info.version}`;
  // The key is kept until the page is left.
  if (choices === null && byId("unlock").hidden) load();
}

export function clear() {
  running.abort();
  running = new AbortController();
  info = null;
  choices = null;
  settled = moves;
  byId("alt-text").value = "";
  byId("editor").hidden = true;
  byId("editing").hidden = true;
  byId("editing-state").textContent = "";
  showError(null);
}

// `paths` is the server's description of its API: without the admin routes there is no editor.
export function start(paths, change) {
  const crop = paths["/api/media/{id}/crops/{size}"]?.put;
  if (!crop) return;
  enabled = true;
  onChange = change;
  sizes = crop.parameters.find(({ name }) => name === "size").schema.enum ?? [];
  segments(byId("target"), "target", [[FOCUS, "focal point"], ...sizes.map((name) => [name, name])], FOCUS);
  segments(byId("default-bg"), "default-bg", [["original", "original"], ["removed", "removed"]], "original");
  byId("target").onchange = select;
  for (const id of ["across", "down", "zoom-in"]) byId(id).oninput = move;
  byId("plane").onpointerdown = point;
  byId("plane").onpointermove = point;
  byId("set").onclick = set;
  byId("automatic").onclick = automatic;
  byId("default-bg").onchange = () => {
    const value = chosen(byId("default-bg"));
    save("PUT", "background", { value }, `Addresses without bg show the ${value === "removed" ? "image without its background" : "original"}.`);
  };
  byId("alt-form").onsubmit = saveText;
  byId("unlock").onsubmit = async (event) => {
    event.preventDefault();
    await load();
    if (choices) byId("target").querySelector("input").focus();
  };
  if (info) show(info);
}
