// Builds and parses image URLs. No dependencies.

// The widths that the server rounds up to; requesting them keeps caches small.
export const WIDTHS = [
  16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840,
];

// Named sizes that crop to a ratio of their own, as the server is configured by default.
export const COVERS = { thumbnail: [300, 300], header: [1600, 500] };

// The named sizes that the server has by default.
export const SIZES = ["thumbnail", "small", "grid", "detail", "header", "zoom"];

const IMAGE_URL = /^(https?:\/\/[^/?#]+(?:\/[^?#]*?)?)?\/?(?:(serve|api\/images)\/)?(0|[1-9]\d{0,18})(?:\.([A-Za-z]\w*))?(?:\?([^#]*))?(?:#.*)?$/;
const SERVED_URL = /\/(?:serve|api\/images)\/(0|[1-9]\d{0,18})(?:\.([A-Za-z]\w*))?(?:\?([^#]*))?(?:#.*)?$/;
const FORMATS = new Set(["avif", "webp", "jpeg", "png", "gif"]);

export const isPictureId = (id) => /^(?:0|[1-9]\d{0,18})$/.test(String(id));
export const snap = (width) => WIDTHS.find((step) => step >= width) ?? WIDTHS.at(-1);

const formatOf = (format) => {
  const lower = format?.toLowerCase();
  const name = lower === "jpg" ? "jpeg" : lower;
  return FORMATS.has(name) ? name : undefined;
};

// As on the server, `?` and `&amp;` separate parameters like `&`, also percent-encoded; see URLS.md.
const SEPARATORS = /(?:&|%26)(?:amp(?:;|%3B))+|&|\?|%3F/i;

// Returns the parameters of a query by their names in lower case: the last value of each, in the order of
// these values. Empty values count as not given. Of `size` and `w` there is only the one named last.
function parametersOf(text = "") {
  const found = new Map();
  for (const pair of text.split(SEPARATORS)) {
    // Decoded before it is divided: an encoded `=` divides, too.
    const decoded = new URLSearchParams(`=${pair}`).get("");
    const [, name, value] = /^([^=]*)=?(.*)$/s.exec(decoded);
    // Deleted first: an entry that is replaced would keep its place.
    found.delete(name.toLowerCase());
    found.set(name.toLowerCase(), value);
  }
  const given = [...found].filter(([, value]) => value);
  const isBox = ([name]) => name === "size" || name === "w";
  const box = given.filter(isBox).at(-1);
  return Object.fromEntries(given.filter((one) => one === box || !isBox(one)));
}

// Returns the name of a size as the settings of the server spell it: those of its own settings have any
// case in URLs. Other names must be spelled as in the settings.
const sizeOf = (name) => SIZES.find((one) => one === name.toLowerCase()) ?? name;

// Returns an image's URL as a signer gets it: with the text that its signature has to cover.
export function variantOf(url) {
  const match = SERVED_URL.exec(String(url));
  if (!match) throw new TypeError(`not the URL of an image: ${url}`);
  const [, id, extension, text] = match;
  const { size = "detail", w, dpr = "1", format = extension, bg = "auto" } = parametersOf(text);
  const box = w ? `w=${snap(Number(w) * Number(dpr))}` : `size=${sizeOf(size)}&dpr=${dpr}`;
  const covers = `${box}&format=${formatOf(format) ?? "auto"}&bg=${bg.toLowerCase()}`;
  return { id, covers, url: String(url) };
}

// Returns the URL of an image. A width precedes a named size; without both, the server's default.
// `sign` gets the result of `variantOf` and returns the URL with its signature.
export function pictureUrl(base, id, operations = {}, sign) {
  const { width, size, dpr, format, background, version } = operations;
  const query = new URLSearchParams();
  if (width) query.set("w", snap(Number(width)));
  else if (size) query.set("size", size);
  if (dpr && Number(dpr) !== 1) query.set("dpr", dpr);
  if (formatOf(format)) query.set("format", formatOf(format));
  if (background === "removed" || background === "original") query.set("bg", background);
  if (version) query.set("v", version);
  const text = query.toString();
  const url = `${base.replace(/\/$/, "")}/serve/${id}${text && `?${text}`}`;
  return sign ? sign(variantOf(url)) : url;
}

// Parses an id (7, "7") or a URL; returns null for anything else.
export function parsePicture(source) {
  const match = IMAGE_URL.exec(String(source));
  if (!match) return null;
  const [, origin, route, id, extension, text] = match;
  if (origin && !route) return null;
  const { w, size, dpr, format = extension, bg, v } = parametersOf(text);
  const operations = {
    width: w && Number(w),
    size: size && sizeOf(size),
    dpr: dpr && Number(dpr),
    format: formatOf(format),
    background: bg?.toLowerCase(),
    version: v,
  };
  for (const [name, value] of Object.entries(operations)) {
    if (value === undefined) delete operations[name];
  }
  return { base: (origin ?? "").replace(/\/$/, ""), id, operations };
}

// Returns a srcset of all widths up to one, and that width itself if the list does not contain it.
export function pictureSrcset(base, id, widest, operations = {}, sign) {
  const last = Math.min(widest, WIDTHS.at(-1));
  const widths = WIDTHS.filter((width) => width >= 64 && width < last);
  return [...widths, last]
    .map((width) => `${pictureUrl(base, id, { ...operations, width }, sign)} ${width}w`)
    .join(", ");
}
