// Compiled, and never run: the types of the modules fit those of the packages.

import type { ImageLoader } from "next/image.js";
import type { ReactElement } from "react";
import type { TransformerFunction } from "unpic/types";
import { smartserveLoader } from "smartserve-image/next";
import { AIAnalysisDisplay, SmartImage, SmartserveProvider } from "smartserve-image/react";
import { type SmartserveOperations, transform } from "smartserve-image/unpic";
import { type ImageAnalysis, parsePicture, pictureUrl } from "smartserve-image";

export const loader: ImageLoader = smartserveLoader("https://img.example.org");
export const transformer: TransformerFunction<SmartserveOperations, undefined> = transform;
export const shown: ReactElement = (
  <SmartserveProvider base="https://img.example.org">
    <SmartImage
      mediaId={7}
      size="thumbnail"
      alt="Profile"
      backgroundOption="removed"
      preferredFormats={["avif", "webp", "jpeg", "png"]}
      showAIData={true}
    />
    <SmartImage base="" mediaId={7} alt="" id="me" className="round" onFinal={(event) => event.currentTarget.src} />
    <AIAnalysisDisplay mediaId={7} showStyle={true} showColors={true} showQuality={true} showMood={true} />
  </SmartserveProvider>
);
export const url: string = pictureUrl("", 7, { format: "avif", width: 640 });
export const id: string | undefined = parsePicture(url)?.id;
export const unsafe = ({ safe_search: rated }: ImageAnalysis): boolean => rated?.adult === "VERY_LIKELY";
// @ts-expect-error there is no such likelihood
export const certain = ({ safe_search: rated }: ImageAnalysis): boolean => rated?.adult === "CERTAIN";
// @ts-expect-error an id is needed
export const wrong: ReactElement = <SmartImage base="" />;
// @ts-expect-error the component chooses the URL
export const wrongToo: ReactElement = <SmartImage mediaId={7} src="/photo.jpg" />;
