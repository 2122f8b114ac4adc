// <smart-image media-id="7" alt="A harbour"> shows a picture of a smartserve: the right size and
// format for the screen, a placeholder of its own colours meanwhile, no jump of the page, and the
// final in place of a draft once it is there. MIT licensed.
//
//   media-id           which picture
//   alt                what it shows, for who cannot see it; without it the stored words, or none
//   size               a named size; without it as wide as it stands on the page
//   background         "removed" cuts a flat background out
//   preferred-formats  "avif webp": these, in this order; without it the server picks by Accept
//   priority           is in view at once: no lazy loading
//   show-analysis      tells below it what is known of it
//   width, height      its shape before anything is known; style="display: block; aspect-ratio: 3/2"
//                      holds its place even before this file is there
//   base               https://img.example.org; without it where this file is from
//
// Its `state` is loading, draft, final or error; `load`, `final` and `error` are events.

const HOME = new URL(import.meta.url).origin;
const ACCEPT = "image/avif,image/webp,*/*;q=0.8";
const TRIES = 9;

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host { display: block; position: relative; overflow: hidden; }
:host([hidden]) { display: none; }
img { display: block; width: 100%; height: auto; }
.box { position: relative; overflow: hidden; max-width: 100%; }
.box img { position: absolute; inset: 0; height: 100%; object-fit: cover; }
.blur { filter: blur(12px); transform: scale(1.1); }
.image { transition: opacity .3s; }
.box:not(.there) .image { opacity: 0; }
.there .blur { visibility: hidden; }
.error { position: absolute; inset: 0; display: grid; place-items: center; padding: 1em; text-align: center; background: #8883; font: 0.9em system-ui, sans-serif; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .3em 1em; margin: .8em 0; font: .9em/1.4 system-ui, sans-serif; }
dt { opacity: .75; } dd { margin: 0; }
.colours { display: flex; height: 1.2em; border-radius: 4px; overflow: hidden; }
@media (prefers-reduced-motion: reduce) { .image { transition: none; } }`);

const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const wait = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// What is known of pictures, asked for all that stand on a page at once.
const known = new Map();
let asked = [];

const fetchJson = async (url) => {
  const answer = await fetch(url);
  if (answer.ok) return answer.json();
  const told = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(told.detail ?? answer.statusText), { status: answer.status });
};

const ask = async (base, some) => {
  try {
    const ids = some.map((one) => one.id);
    const told = await fetchJson(`${base}/info${ids.length > 1 ? `?ids=${ids}` : `/${ids}`}`);
    const found = new Map((told.pictures ?? [told]).map((one) => [`${one.id}`, one]));
    for (const { id, resolve, reject } of some) {
      const missing = told.missing?.find((one) => `${one.id}` === id);
      if (found.has(id)) resolve(found.get(id));
      else reject(new Error(missing?.detail));
    }
  } catch (error) {
    for (const { reject } of some) reject(error);
  }
};

const flush = () => {
  const waiting = asked;
  asked = [];
  for (const base of new Set(waiting.map((one) => one.base))) {
    const own = waiting.filter((one) => one.base === base);
    while (own.length) ask(base, own.splice(0, 50));
  }
};

export const info = (id, base = HOME) => {
  const key = `${base} ${id}`;
  if (!known.has(key)) {
    const told = new Promise((resolve, reject) => {
      if (!asked.length) setTimeout(flush);
      asked.push({ id: `${id}`, base, resolve, reject });
    });
    known.set(key, told);
    told.catch(() => known.delete(key));
  }
  return known.get(key);
};

class Told extends HTMLElement {
  static observedAttributes = [
    ..."media-id size alt background preferred-formats".split(" "),
    ..."priority show-analysis width height base".split(" "),
  ];

  #due = 0;

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
  }

  get base() {
    return (this.getAttribute("base") ?? HOME).replace(/\/$/, "");
  }

  connectedCallback() {
    this.attributeChangedCallback();
  }

  disconnectedCallback() {
    this.#due += 1;
  }

  // Several attributes that change together are one change.
  attributeChangedCallback() {
    this.#due += 1;
    const turn = this.#due;
    queueMicrotask(() => {
      const current = () => turn === this.#due && this.isConnected;
      if (current() && this.getAttribute("media-id")) this.show(current);
    });
  }
}

class SmartImage extends Told {
  async show(current) {
    const [width, height] = ["width", "height"].map((name) => +this.getAttribute(name));
    const box = make("div", { className: "box", part: "box" });
    if (width && height) box.style.aspectRatio = `${width}/${height}`;
    this.shadowRoot.replaceChildren(box);
    this.setAttribute("state", "loading");
    try {
      const told = await info(this.getAttribute("media-id"), this.base);
      if (current()) this.#draw(told, box, current);
    } catch (error) {
      if (current()) this.#fail(box, error.message);
    }
  }

  // Candidates for a format; `mark` tells the final's address from the draft's.
  #candidates(told, format, mark = "") {
    const size = this.getAttribute("size");
    const tail = this.getAttribute("background") === "removed" ? "&bg=removed" : "";
    const url = `/serve/${told.id}?size=${size}${format ? `&format=${format}` : ""}&v=${told.version}`;
    const text = size
      ? `${url}, ${url}&dpr=2 2x`
      : (told.srcset[format || "auto"] ?? told.srcset.auto);
    return text.replace(/\/serve\/[^ ,]+/g, (one) =>
      `${this.base}${one}${tail}`.replace(/v=\w+/, `$&${mark}`),
    );
  }

  #draw(told, box, current) {
    const size = told.dimensions[this.getAttribute("size")] ?? told;
    const eager = this.hasAttribute("priority");
    box.style.aspectRatio = `${size.width}/${size.height}`;
    if (this.hasAttribute("size")) box.style.width = `${size.width}px`;
    if (!told.transparent) box.style.backgroundColor = told.dominant_colors[0]?.hex;
    const sizes = `${eager ? "" : "auto, "}${this.clientWidth || innerWidth}px`;
    const image = make("img", {
      className: "image",
      part: "image",
      alt: this.getAttribute("alt") ?? told.alt ?? "",
      loading: eager ? "eager" : "lazy",
      fetchPriority: eager ? "high" : "auto",
      decoding: "async",
      sizes,
    });
    const formats = (this.getAttribute("preferred-formats") ?? "").match(/\w+/g) ?? [];
    const served = formats.filter((one) => told.formats.served.includes(one));
    const sources = served.map((format) => make("source", { type: `image/${format}`, sizes }));
    const fill = (mark) => {
      served.forEach((format, at) => (sources[at].srcset = this.#candidates(told, format, mark)));
      image.srcset = this.#candidates(told, "", mark);
    };
    image.onload = () => {
      box.classList.add("there");
      box.style.backgroundColor = "";
      if (this.getAttribute("state") !== "loading") return;
      this.setAttribute("state", "final");
      this.dispatchEvent(new Event("load"));
      this.#follow(image, fill, current);
    };
    image.onerror = () => this.#fail(box, "This picture cannot be shown.");
    const blur = make("img", { className: "blur", alt: "", src: told.placeholders.data_uri });
    box.replaceChildren(blur, make("picture", {}, ...sources, image));
    fill("");
    if (this.hasAttribute("show-analysis")) {
      const analysis = make("smart-image-analysis");
      analysis.setAttribute("media-id", told.id);
      analysis.setAttribute("base", this.base);
      this.shadowRoot.append(analysis);
    }
  }

  // A draft has no Last-Modified: the one header that tells, and that other origins may read.
  async #follow(image, fill, current) {
    const url = image.currentSrc;
    for (let turn = 0; turn < TRIES && current(); turn += 1) {
      const answer = await fetch(url, {
        method: "HEAD",
        cache: "no-store",
        headers: { Accept: ACCEPT },
      }).catch(() => null);
      if (!answer?.ok || !current()) return;
      if (answer.headers.has("Last-Modified")) {
        if (turn) fill("f");
        this.setAttribute("state", "final");
        if (turn) this.dispatchEvent(new Event("final"));
        return;
      }
      this.setAttribute("state", "draft");
      await wait(Math.min(2 ** turn, 30));
    }
  }

  #fail(box, text) {
    this.setAttribute("state", "error");
    if (!box.style.aspectRatio) box.style.aspectRatio = "3/2";
    const alt = this.getAttribute("alt");
    const shown = make("span", { textContent: alt ? `${alt} (${text})` : text });
    box.replaceChildren(make("div", { className: "error", part: "error" }, shown));
    this.dispatchEvent(new Event("error"));
  }
}

class SmartImageAnalysis extends Told {
  async show(current) {
    const told = await info(this.getAttribute("media-id"), this.base).catch(() => null);
    if (!told || !current()) return;
    const { style, medium, quality_score: quality, mood_keywords: mood } = told.analysis;
    const colours = make("span", { className: "colours", role: "img" });
    colours.setAttribute("aria-label", told.dominant_colors.map((one) => one.hex).join(", "));
    for (const { hex, percent } of told.dominant_colors) {
      const swatch = make("i", { title: hex });
      Object.assign(swatch.style, { background: hex, flexGrow: percent });
      colours.append(swatch);
    }
    const rows = {
      Style: [style, medium].filter(Boolean).join(", "),
      Colours: colours,
      Quality: `${quality} of 100`,
      Mood: mood.join(", "),
    };
    const list = make("dl", { part: "analysis" });
    for (const [name, value] of Object.entries(rows)) {
      if (value) list.append(make("dt", { textContent: name }), make("dd", {}, value));
    }
    this.shadowRoot.replaceChildren(list);
  }
}

customElements.define("smart-image", SmartImage);
customElements.define("smart-image-analysis", SmartImageAnalysis);
