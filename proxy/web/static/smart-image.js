// <smart-image> of smartserve: deploy/EMBEDDING.md. MIT.

const RETRIES = 4;
const FINAL_S = 30;

const sheet = new CSSStyleSheet();
sheet.replaceSync(`
:host { display: block; overflow: hidden; }
:host([hidden]), .there .blur { display: none; }
.box { position: relative; overflow: hidden; max-width: 100%; }
.box:not(.there) { aspect-ratio: 3/2; }
:host([size]) .box { width: 300px; }
:host([size]) .there { width: fit-content; }
img { display: block; max-width: 100%; height: auto; }
:host(:not([size])) img { width: 100%; }
.shaped img, .error { position: absolute; width: 100%; height: 100%; object-fit: cover; }
.blur { filter: blur(12px); transform: scale(1.1); }
.broken .image { visibility: hidden; }
.error { display: grid; place-items: center; background: #8883; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .3em 1em; }
dt { opacity: .75; } dd { margin: 0; }
.colours { display: flex; height: 1.2em; }`);

const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const backOff = (turn) => sleep(2 ** turn * (0.5 + Math.random()));
const isId = (id) => /^(0|[1-9]\d{0,18})$/.test(id);

const load = async (base, batch, turn = 0) => {
  const ids = batch.map(({ id }) => id);
  let body = {};
  let status = 503;
  try {
    const response = await fetch(`${base}/info${ids[1] ? `?ids=${ids}` : `/${ids}`}`, { priority: "low" });
    if (response.ok) body = await response.json();
    status = response.status;
  } catch {
    // As a 503.
  }
  const later = batch.filter((one) => {
    const same = ({ id }) => `${id}` === one.id;
    const found = [body, ...(body.pictures ?? [])].find(same);
    if (found) return one.resolve(found);
    const code = body.missing?.find(same)?.status ?? status;
    if (/429|50[234]/.test(code) && turn < RETRIES) return true;
    ids[1] && !body.missing ? load(base, [one]) : one.reject(code);
  });
  if (later[0]) backOff(turn).then(() => load(base, later, turn + 1));
};

const cache = {};
const queues = {};
const info = (id, base) => {
  const key = `${base} ${id}`;
  cache[key] ??= new Promise((resolve, reject) => {
    const batch = (queues[base] ??= []);
    const flush = () => {
      delete queues[base];
      while (batch[0]) load(base, batch.splice(0, 50));
    };
    if (!batch[0]) requestAnimationFrame(() => setTimeout(flush));
    batch.push({ id, resolve, reject });
  });
  cache[key].catch(() => setTimeout(() => delete cache[key], 60_000));
  return cache[key];
};

const finals = {};
const note = (one) =>
  /"(draft|fallback)"/.test(JSON.stringify(one)) ? (finals[one.name] ??= null) : delete finals[one.name];
const observer = new PerformanceObserver((list) => list.getEntries().map(note));
observer.observe({ type: "resource", buffered: true });

const headers = { Accept: "image/avif,image/webp,*/*;q=0.8" };
const checkLater = (url) =>
  sleep(FINAL_S).then(() => fetch(url, { method: "HEAD", cache: "no-store", headers }));

const reload = (image, v) => {
  const mark = (url) => (v ? `${url}${url.includes("?") ? "&" : "?"}v=${v}` : url);
  for (const one of image.closest("picture")?.children ?? [image]) {
    for (const name of ["srcset", "src"]) {
      if (one[name]) one[name] = one.getAttribute(name).replace(/\/(serve|images)\/[^ ,]+/g, mark);
    }
  }
};

const isParsed = (node) =>
  document.readyState !== "loading" || (node && (node.nextSibling || isParsed(node.parentNode)));

class MediaElement extends HTMLElement {
  static observedAttributes =
    "media-id size alt lang background preferred-formats version priority show-analysis width height srcset base".split(" ");

  #version = 0;

  constructor() {
    super();
    this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
  }

  get base() {
    return (this.getAttribute("base") ?? new URL(import.meta.url).origin).replace(/\/$/, "");
  }

  connectedCallback() {
    this.attributeChangedCallback();
  }

  async attributeChangedCallback() {
    const version = ++this.#version;
    const current = () => version === this.#version && this.isConnected;
    await 0;
    while (current() && !isParsed(this)) await sleep(0.01);
    const id = this.getAttribute("media-id");
    if (current() && id) this.show(id, current);
  }
}

class SmartImage extends MediaElement {
  show(id, current) {
    const given = (name) => this.getAttribute(name);
    const own = [...this.querySelectorAll("img")].find((one) =>
      one.outerHTML.match(/\/(serve|images)\/(\d+)/)?.[2] === id,
    );
    const box = make("div", { className: own ? "box there" : "box", part: "box" });
    const size = given("size");
    const reserve = (width, height) => {
      if (!(width * height) || box.style.aspectRatio) return;
      box.classList.add("shaped");
      box.style.aspectRatio = `${width}/${height}`;
      if (size) box.style.width = `${width}px`;
    };
    this.shadowRoot.replaceChildren(box);
    this.setAttribute("state", "loading");
    if (own) {
      box.append(make("slot"));
      return this.#watch(own, id, box, current);
    }
    reserve(given("width"), given("height"));
    if (!isId(id)) return this.#fail(box, id);
    const candidates = (tail = "") => {
      if (/^(original|removed)$/.test(given("background"))) tail += `&bg=${given("background")}`;
      if (given("version")) tail += `&v=${given("version")}`;
      const sign = this.signer ?? globalThis.smartImageSigner ?? (({ url }) => url);
      const url = (query, dpr = "") => sign({ id, url: `${this.base}/serve/${id}?${query}${tail}${dpr}` });
      if (size) return `${url(`size=${size}`)}, ${url(`size=${size}`, "&dpr=2")} 2x`;
      const widths = [64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840];
      return widths.map((width) => `${url(`w=${width}`)} ${width}w`);
    };
    const eager = given("priority") !== null;
    const sizes = `${eager || !box.style.aspectRatio ? "" : "auto, "}${this.clientWidth || innerWidth}px`;
    const sources = (given("preferred-formats")?.match(/\w+/g) ?? []).map((format) =>
      make("source", { type: `image/${format}`, sizes, srcset: candidates(`&format=${format}`) }),
    );
    const image = make("img", {
      className: "image",
      part: "image",
      alt: given("alt") ?? "",
      loading: eager ? "eager" : "lazy",
      fetchPriority: eager ? "high" : "auto",
      sizes,
      srcset: given("srcset")?.replace(/(^|\s)(?=\/)/g, `$1${this.base}`) ?? candidates(),
    });
    box.append(make("picture", {}, ...sources, image));
    this.#watch(image, id, box, current);
    info(id, this.base).then((media) => {
      const { width, height } = media.dimensions[size] ?? media;
      reserve(width, height);
      let alt;
      const lang = `${this.closest("[lang]")?.lang}-`.toLowerCase();
      for (const tag in media.alts) {
        if (lang.startsWith(`${tag}-`.toLowerCase())) alt = media.alts[tag];
        if (tag.startsWith(/^\w+-/.exec(lang))) alt ??= media.alts[tag];
      }
      image.alt = given("alt") ?? alt ?? media.alt ?? "";
      for (const one of sources) if (!media.formats.served.includes(one.type.slice(6))) one.remove();
      box.prepend(make("img", { className: "blur", alt: "", src: media.placeholders.data_uri }));
    }, () => {});
  }

  #watch(image, id, box, current) {
    let turn = 0;
    let replaced;
    const loaded = async () => {
      if (!current()) return;
      box.classList.remove("broken");
      box.classList.add("there");
      if (replaced) this.#enter("final");
      if (this.getAttribute("state") !== "loading") return;
      const url = image.currentSrc;
      observer.takeRecords().map(note);
      this.#enter(url in finals ? "draft" : "final", "load");
      if (!(url in finals)) return;
      const response = await (finals[url] ??= checkLater(url)).catch(() => null);
      // Only a final has a date.
      const date = response?.headers.get("Last-Modified");
      replaced = date && current();
      if (replaced) reload(image, Date.parse(date));
    };
    const failed = async () => {
      if (!current()) return;
      box.classList.add("broken");
      const code = await info(id, this.base).catch((code) => code);
      if (code < 500 || turn === RETRIES) return current() && this.#fail(box, id);
      await backOff(turn++);
      for (const source of box.querySelectorAll("source")) source.remove();
      if (current()) reload(image);
    };
    image.addEventListener("load", loaded);
    image.addEventListener("error", failed);
    if (image.complete && image.currentSrc) (image.naturalWidth ? loaded : failed)();
    if (!this.hasAttribute("show-analysis")) return;
    const analysis = make("smart-image-analysis");
    analysis.setAttribute("media-id", id);
    analysis.setAttribute("base", this.base);
    this.shadowRoot.append(analysis);
  }

  #enter(state, event = state) {
    this.setAttribute("state", state);
    this.dispatchEvent(new Event(event));
  }

  #fail(box, id) {
    console.warn(`smart-image: no image with media-id="${id}"`);
    box.style.aspectRatio = `${box.clientWidth}/${box.clientHeight}`;
    box.className = "box";
    const textContent = this.getAttribute("alt") ?? this.querySelector("img")?.alt;
    box.replaceChildren(make("div", { className: "error", part: "error", textContent }));
    this.#enter("error");
  }
}

class SmartImageAnalysis extends MediaElement {
  async show(id, current) {
    const image = isId(id) && (await info(id, this.base).catch(() => null));
    if (!image || !current()) return;
    const { style, medium, quality_score, mood_keywords } = image.analysis;
    const swatches = image.dominant_colors.map(({ hex, percent }) =>
      make("i", { title: hex, style: `background: ${hex}; flex-grow: ${percent}` }),
    );
    const ariaLabel = image.dominant_colors.map(({ hex }) => hex);
    const rows = {
      Style: [style, medium].filter(Boolean).join(", "),
      Colours: make("span", { className: "colours", role: "img", ariaLabel }, ...swatches),
      Quality: quality_score && `${quality_score} / 100`,
      Mood: mood_keywords.join(", "),
    };
    const list = make("dl", { part: "analysis" });
    for (const name in rows) {
      if (rows[name]) list.append(make("dt", {}, name), make("dd", {}, rows[name]));
    }
    this.shadowRoot.replaceChildren(list);
  }
}

customElements.define("smart-image", SmartImage);
customElements.define("smart-image-analysis", SmartImageAnalysis);
