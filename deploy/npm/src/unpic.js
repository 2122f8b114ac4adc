// A transformer for unpic: parses, builds and changes image URLs.

import { parsePicture, pictureUrl } from "./urls.js";

export function extract(url) {
  const parsed = parsePicture(url);
  if (!parsed) return null;
  const { width, format, version, ...rest } = parsed.operations;
  const operations = { width, format, ...rest };
  for (const name of Object.keys(operations)) {
    if (operations[name] === undefined) delete operations[name];
  }
  return { src: pictureUrl(parsed.base, parsed.id, { version }), operations };
}

// Heights and qualities are ignored: images keep their aspect ratio, and the server chooses the quality.
// `options.sign` signs the URLs of private images.
export function generate(src, operations = {}, { sign } = {}) {
  const parsed = parsePicture(src);
  if (!parsed) return String(src);
  const { width, format, size, dpr, background } = operations;
  const chosen = { width, format, size, dpr, background };
  for (const name of Object.keys(chosen)) {
    if (chosen[name] === undefined) delete chosen[name];
  }
  return pictureUrl(parsed.base, parsed.id, { ...parsed.operations, ...chosen }, sign);
}

export function transform(src, operations = {}, options = {}) {
  const found = extract(src);
  return found ? generate(found.src, { ...found.operations, ...operations }, options) : String(src);
}
