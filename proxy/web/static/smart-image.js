// <smart-image media-id="7" alt="A harbour"> shows an image of a smartserve server: in the right
// size and format, with a placeholder while it loads, without layout shift. A draft is replaced by
// the final when that is ready. MIT licensed.
//
//   media-id           id of the image
//   alt                alternative text; default: the stored description, or empty
//   size               a preset; default: the width of the element
//   background         "removed" makes a uniform background transparent
//   preferred-formats  "avif webp": these, in this order; default: by the Accept header
//   priority           load at once instead of lazily
//   show-analysis      show the analysis below the image
//   width, height      aspect ratio until the description has loaded;
//                      style="display: block; aspect-ratio: 3/2" also reserves the space before
//                      this file has loaded
//   base               https://img.example.org; default: the origin of this file
//
// The `state` attribute is loading, draft, final or error; `load`, `final` and `error` are events.

const HOME = new URL(import.meta.url).origin;
const ACCEPT = "image/avif,image/webp,*/*;q=0.8";
const MAX_POLLS = 9;
const RETRY_MS = 2000;

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
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

// Descriptions by base and id. Requests of one task are batched: a page sends one for all images.
const cache = new Map();
let queue = [];

const fetchJson = async (url) => {
  const response = await fetch(url);
  if (response.ok) return response.json();
  const problem = await response.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? response.statusText), { status: response.status });
};

const load = async (base, batch, turn = 0) => {
  try {
    const ids = batch.map((one) => one.id);
    const body = await fetchJson(`${base}/info${ids.length > 1 ? `?ids=${ids}` : `/${ids}`}`);
    const found = new Map((body.pictures ?? [body]).map((one) => [`${one.id}`, one]));
    const later = [];
    for (const one of batch) {
      const missing = body.missing?.find(({ id }) => `${id}` === one.id);
      if (found.has(one.id)) one.resolve(found.get(one.id));
      // The server still describes it, and answers with the others.
      else if (missing?.status === 503 && turn < MAX_POLLS) later.push(one);
      else one.reject(new Error(missing?.detail));
    }
    if (later.length) setTimeout(() => load(base, later, turn + 1), RETRY_MS);
  } catch (error) {
    for (const { reject } of batch) reject(error);
  }
};

const flush = () => {
  const waiting = queue;
  queue = [];
  for (const base of new Set(waiting.map((one) => one.base))) {
    const own = waiting.filter((one) => one.base === base);
    while (own.length) load(base, own.splice(0, 50));
  }
};

export const info = (id, base = HOME) => {
  const key = `${base} ${id}`;
  if (!cache.has(key)) {
    const promise = new Promise((resolve, reject) => {
      if (!queue.length) setTimeout(flush);
      queue.push({ id: `${id}`, base, resolve, reject });
    });
    cache.set(key, promise);
    promise.catch(() => cache.delete(key));
  }
  return cache.get(key);
};

class MediaElement extends HTMLElement {
  static observedAttributes = [
    ..."media-id size alt background preferred-formats".split(" "),
    ..."priority show-analysis width height base".split(" "),
  ];

  #version = 0;

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
    this.#version += 1;
  }

  // Attributes that change in one task cause one update.
  attributeChangedCallback() {
    this.#version += 1;
    const version = this.#version;
    queueMicrotask(() => {
      const current = () => version === this.#version && this.isConnected;
      if (current() && this.getAttribute("media-id")) this.show(current);
    });
  }
}

class SmartImage extends MediaElement {
  async show(current) {
    const [width, height] = ["width", "height"].map((name) => +this.getAttribute(name));
    const box = make("div", { className: "box", part: "box" });
    if (width && height) box.style.aspectRatio = `${width}/${height}`;
    this.shadowRoot.replaceChildren(box);
    this.setAttribute("state", "loading");
    try {
      const image = await info(this.getAttribute("media-id"), this.base);
      if (current()) this.#draw(image, box, current);
    } catch (error) {
      if (current()) this.#fail(box, error.message);
    }
  }

  // Return the srcset for a format. `mark` changes the URL, so that the final bypasses the cache.
  #candidates(media, format, mark = "") {
    const size = this.getAttribute("size");
    const tail = this.getAttribute("background") === "removed" ? "&bg=removed" : "";
    const url = `/serve/${media.id}?size=${size}${format ? `&format=${format}` : ""}&v=${media.version}`;
    const text = size
      ? `${url}, ${url}&dpr=2 2x`
      : (media.srcset[format || "auto"] ?? media.srcset.auto);
    return text.replace(/\/serve\/[^ ,]+/g, (one) =>
      `${this.base}${one}${tail}`.replace(/v=\w+/, `$&${mark}`),
    );
  }

  #draw(media, box, current) {
    const size = media.dimensions[this.getAttribute("size")] ?? media;
    const eager = this.hasAttribute("priority");
    box.style.aspectRatio = `${size.width}/${size.height}`;
    if (this.hasAttribute("size")) box.style.width = `${size.width}px`;
    if (!media.transparent) box.style.backgroundColor = media.dominant_colors[0]?.hex;
    const sizes = `${eager ? "" : "auto, "}${this.clientWidth || innerWidth}px`;
    const image = make("img", {
      className: "image",
      part: "image",
      alt: this.getAttribute("alt") ?? media.alt ?? "",
      loading: eager ? "eager" : "lazy",
      fetchPriority: eager ? "high" : "auto",
      decoding: "async",
      sizes,
    });
    const formats = (this.getAttribute("preferred-formats") ?? "").match(/\w+/g) ?? [];
    const served = formats.filter((one) => media.formats.served.includes(one));
    const sources = served.map((format) => make("source", { type: `image/${format}`, sizes }));
    const fill = (mark) => {
      served.forEach((format, at) => (sources[at].srcset = this.#candidates(media, format, mark)));
      image.srcset = this.#candidates(media, "", mark);
    };
    image.onload = () => {
      box.classList.add("there");
      box.style.backgroundColor = "";
      if (this.getAttribute("state") !== "loading") return;
      this.setAttribute("state", "final");
      this.dispatchEvent(new Event("load"));
      this.#waitForFinal(image, fill, current);
    };
    image.onerror = () => this.#fail(box, "The image cannot be displayed.");
    const blur = make("img", { className: "blur", alt: "", src: media.placeholders.data_uri });
    box.replaceChildren(blur, make("picture", {}, ...sources, image));
    fill("");
    if (this.hasAttribute("show-analysis")) {
      const analysis = make("smart-image-analysis");
      analysis.setAttribute("media-id", media.id);
      analysis.setAttribute("base", this.base);
      this.shadowRoot.append(analysis);
    }
  }

  // Poll until the draft is replaced. Of all headers that pages of other origins may read, only
  // Last-Modified differs: a draft has none.
  async #waitForFinal(image, fill, current) {
    const url = image.currentSrc;
    for (let turn = 0; turn < MAX_POLLS && current(); turn += 1) {
      const response = await fetch(url, {
        method: "HEAD",
        cache: "no-store",
        headers: { Accept: ACCEPT },
      }).catch(() => null);
      if (!response?.ok || !current()) return;
      if (response.headers.has("Last-Modified")) {
        if (turn) fill("f");
        this.setAttribute("state", "final");
        if (turn) this.dispatchEvent(new Event("final"));
        return;
      }
      this.setAttribute("state", "draft");
      await sleep(Math.min(2 ** turn, 30));
    }
  }

  #fail(box, text) {
    this.setAttribute("state", "error");
    if (!box.style.aspectRatio) box.style.aspectRatio = "3/2";
    const alt = this.getAttribute("alt");
    const message = make("span", { textContent: alt ? `${alt} (${text})` : text });
    box.replaceChildren(make("div", { className: "error", part: "error" }, message));
    this.dispatchEvent(new Event("error"));
  }
}

class SmartImageAnalysis extends MediaElement {
  async show(current) {
    const image = await info(this.getAttribute("media-id"), this.base).catch(() => null);
    if (!image || !current()) return;
    const { style, medium, quality_score: quality, mood_keywords: mood } = image.analysis;
    const colours = make("span", { className: "colours", role: "img" });
    colours.setAttribute("aria-label", image.dominant_colors.map((one) => one.hex).join(", "));
    for (const { hex, percent } of image.dominant_colors) {
      const swatch = make("i", { title: hex });
      Object.assign(swatch.style, { background: hex, flexGrow: percent });
      colours.append(swatch);
    }
    const rows = {
      Style: [style, medium].filter(Boolean).join(", "),
      Colours: colours,
      Quality: `${quality} / 100`,
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
