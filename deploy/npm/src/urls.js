// Builds and parses image URLs. No dependencies.

// The widths that the server rounds up to; requesting them keeps caches small.
export const WIDTHS = [
  16, 32, 48, 64, 96, 128, 256, 384, 640, 750, 828, 1080, 1200, 1920, 2048, 3840,
];

// Named sizes that crop to a ratio of their own, as the server is configured by default.
export const COVERS = { thumbnail: [300, 300], header: [1600, 500] };

const IMAGE_URL = /^(https?:\/\/[^/?#]+(?:\/[^?#]*?)?)?\/?(?:(serve|api\/images)\/)?(0|[1-9]\d{0,18})(?:\.([A-Za-z]\w*))?(?:\?([^#]*))?(?:#.*)?$/;
const SERVED_URL = /\/(?:serve|api\/images)\/(0|[1-9]\d{0,18})(?:\.([A-Za-z]\w*))?(?:\?([^#]*))?(?:#.*)?$/;
const FORMATS = new Set(["avif", "webp", "jpeg", "png", "gif"]);

export const isPictureId = (id) => /^(?:0|[1-9]\d{0,18})$/.test(String(id));
export const snap = (width) => WIDTHS.find((step) => step >= width) ?? WIDTHS.at(-1);

const formatOf = (format) => {
  const name = format === "jpg" ? "jpeg" : format;
  return FORMATS.has(name) ? name : undefined;
};

// Returns an image's URL as a signer gets it: with the text that its signature has to cover. As on the
// server, the last value of each parameter counts, and the last of `size` and `w`.
export function variantOf(url) {
  const match = SERVED_URL.exec(String(url));
  if (!match) throw new TypeError(`not the URL of an image: ${url}`);
  const [, id, extension, text] = match;
  const query = {};
  for (const [name, value] of new URLSearchParams(text)) {
    const key = name.toLowerCase();
    delete query[key];
    query[key] = value;
  }
  for (const name of Object.keys(query)) if (!query[name]) delete query[name];
  const { size = "detail", w, dpr = "1", format = extension ?? "", bg = "auto" } = query;
  const byWidth = w && Object.keys(query).filter((name) => name === "size" || name === "w").at(-1) === "w";
  const box = byWidth ? `w=${snap(Number(w) * Number(dpr))}` : `size=${size}&dpr=${dpr}`;
  const covers = `${box}&format=${formatOf(format.toLowerCase()) ?? "auto"}&bg=${bg.toLowerCase()}`;
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
  const query = new URLSearchParams(text);
  const given = (name) => query.get(name) || undefined;
  const operations = {
    width: given("w") && Number(given("w")),
    size: given("size"),
    dpr: given("dpr") && Number(given("dpr")),
    format: formatOf(given("format") ?? extension),
    background: given("bg"),
    version: given("v"),
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
