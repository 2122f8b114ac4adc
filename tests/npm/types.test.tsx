// Compiled, and never run: the types of the modules fit those of the packages.

import type { ImageLoader } from "next/image.js";
import type { ReactElement } from "react";
import type { TransformerFunction } from "unpic/types";
import { smartserveLoader } from "smartserve-image/next";
import { AIAnalysisDisplay, SmartImage, SmartserveProvider } from "smartserve-image/react";
import { type SmartserveOperations, transform } from "smartserve-image/unpic";
import { createSigner } from "smartserve-image/node";
import { signedProvider } from "smartserve-image/nuxt";
import { type ImageAnalysis, parsePicture, pictureUrl, type Signer } from "smartserve-image";

export const sign: Signer = createSigner({ key: "k".repeat(32), keyId: "2026", ttl: 3600 });

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
export const signed: ReactElement = (
  <SmartserveProvider base="" sign={sign}>
    <SmartImage mediaId={7} sign={({ id, url, covers }) => `${url}&sig=${id}${covers}`} />
  </SmartserveProvider>
);
export const signingLoader: ImageLoader = smartserveLoader("", { sign });
export const signingTransformer: TransformerFunction<SmartserveOperations, undefined> = (src, operations) =>
  transform(src, operations, { sign });
export const signedUrl: string = signedProvider(sign)().getImage("7", {}).url;
// @ts-expect-error a signer returns at once
export const late: ReactElement = <SmartImage mediaId={7} sign={async ({ url }) => url} />;
export const url: string = pictureUrl("", 7, { format: "avif", width: 640 });
export const id: string | undefined = parsePicture(url)?.id;
export const unsafe = ({ safe_search: rated }: ImageAnalysis): boolean => rated?.adult === "VERY_LIKELY";
// @ts-expect-error there is no such likelihood
export const certain = ({ safe_search: rated }: ImageAnalysis): boolean => rated?.adult === "CERTAIN";
// @ts-expect-error an id is needed
export const wrong: ReactElement = <SmartImage base="" />;
// @ts-expect-error the component chooses the URL
export const wrongToo: ReactElement = <SmartImage mediaId={7} src="/photo.jpg" />;
