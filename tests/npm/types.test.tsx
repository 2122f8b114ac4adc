// Compiled, and never run: the types of the modules fit those of the packages.

import type { ImageLoader } from "next/image.js";
import type { ReactElement } from "react";
import type { TransformerFunction } from "unpic/types";
import { smartserveLoader } from "smartserve-image/next";
import { SmartImage } from "smartserve-image/react";
import { type SmartserveOperations, transform } from "smartserve-image/unpic";
import { type ImageAnalysis, parsePicture, pictureUrl } from "smartserve-image";

export const loader: ImageLoader = smartserveLoader("https://img.example.org");
export const transformer: TransformerFunction<SmartserveOperations, undefined> = transform;
export const shown: ReactElement = (
  <SmartImage base="https://img.example.org" mediaId={7} alt="" onFinal={(event) => event.type} />
);
export const url: string = pictureUrl("", 7, { format: "avif", width: 640 });
export const id: string | undefined = parsePicture(url)?.id;
export const unsafe = ({ safe_search: rated }: ImageAnalysis): boolean => rated?.adult === "VERY_LIKELY";
// @ts-expect-error there is no such likelihood
export const certain = ({ safe_search: rated }: ImageAnalysis): boolean => rated?.adult === "CERTAIN";
// @ts-expect-error a base is needed
export const wrong: ReactElement = <SmartImage mediaId={7} />;
