// A loader for next/image: `src` is a media id, or an address of a picture.

import { parsePicture, pictureUrl } from "./urls.js";

// Of the quality that Next.js asks for nothing is made: the server finds the one that looks good.
export function smartserveLoader(base) {
  return ({ src, width }) => {
    const parsed = parsePicture(src);
    if (!parsed) throw new Error(`smartserve-image: ${src} is no media id and no address of one`);
    return pictureUrl(parsed.base || base, parsed.id, { ...parsed.operations, width });
  };
}
