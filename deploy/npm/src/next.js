// A loader for next/image: `src` is a media id or the URL of an image.

import { parsePicture, pictureUrl } from "./urls.js";

// The quality of Next.js is ignored: the server chooses it.
export function smartserveLoader(base) {
  return ({ src, width }) => {
    const parsed = parsePicture(src);
    if (!parsed) throw new Error(`smartserve-image: ${src} is neither a media id nor an image URL`);
    return pictureUrl(parsed.base || base, parsed.id, { ...parsed.operations, width });
  };
}
