import type { Signer } from "./urls.js";

export interface LoaderProps {
  src: string;
  width: number;
  quality?: number;
}

/** For `loader` of next/image, or the default export of `images.loaderFile`. */
export function smartserveLoader(
  base: string,
  options?: { sign?: Signer },
): (props: LoaderProps) => string;
