// A loader for next/image: `src` is a media id or the URL of an image.

import { parsePicture, pictureUrl } from "./urls.js";

// The quality of Next.js is ignored: the server chooses it. With `loaderFile`, the images of the
// application itself come here too, and keep their URL.
// `sign` signs the URLs of private images; the loader runs in the browser too.
export function smartserveLoader(base, { sign } = {}) {
  return ({ src, width }) => {
    const parsed = parsePicture(src);
    if (!parsed) return src;
    return pictureUrl(parsed.base || base, parsed.id, { ...parsed.operations, width }, sign);
  };
}
