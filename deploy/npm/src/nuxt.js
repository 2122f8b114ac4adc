// A provider for @nuxt/image: `src` is a media id or the URL of an image.

import { parsePicture, pictureUrl } from "./urls.js";

function getImage(src, { modifiers = {}, baseURL = "" }, sign) {
  const parsed = parsePicture(src);
  if (!parsed) return { url: src };
  const { width, size, dpr, format, background, version } = modifiers;
  const chosen = { width, size, dpr, format, background, version };
  const given = Object.entries(chosen).filter(([, value]) => value !== undefined && value !== "");
  const operations = { ...parsed.operations, ...Object.fromEntries(given) };
  return { url: pictureUrl(parsed.base || baseURL, parsed.id, operations, sign) };
}

/** A provider that signs the URLs of private images: the default export of a module of your own. */
export const signedProvider = (sign) => () => ({ getImage: (src, options) => getImage(src, options, sign) });

// What `defineProvider` returns. It is not imported: @nuxt/image cannot be found from a linked package.
export default () => ({ getImage: (src, options) => getImage(src, options) });
