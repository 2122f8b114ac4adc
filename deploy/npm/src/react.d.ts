import type { Signer } from "./urls.js";
import type { CSSProperties, HTMLAttributes, ImgHTMLAttributes, ReactElement, ReactNode } from "react";

type Replaced = "src" | "srcSet" | "width" | "height" | "loading" | "decoding" | "fetchPriority" | "placeholder";

/** Further properties (`id`, `className`, `data-…`) are those of the `<img>`. */
export interface SmartImageProps extends Omit<ImgHTMLAttributes<HTMLImageElement>, Replaced> {
  /** The server's address: https://img.example.org. Default: of `SmartserveProvider`, or this origin. */
  base?: string;
  /** Signs the URLs of a private image, also in the browser. Default: of `SmartserveProvider`. */
  sign?: Signer;
  /** While it is not a number, nothing is requested. */
  mediaId: number | string | null | undefined;
  /** A named size. Without it, the browser chooses a width. */
  size?: string;
  alt?: string;
  background?: "original" | "removed";
  /** The same as `background`. */
  backgroundOption?: "original" | "removed";
  /** In order of preference. Without them, the Accept header decides. */
  preferredFormats?: readonly string[] | string;
  /** Visible without scrolling: preloaded, with high priority, not lazily. */
  priority?: boolean;
  /** Shows the analysis below the image. */
  showAIData?: boolean;
  /** The same as `showAIData`. */
  showAnalysis?: boolean;
  /** In CSS pixels; with a height they reserve the space. Without them, the image is as wide as its container. */
  width?: number | string;
  height?: number | string;
  /** Width divided by height, 1.5 or "3 / 2": reserves the space without `width` and `height`. */
  aspectRatio?: number | string;
  /** As of an `<img>`. Default: `auto` and the width. */
  sizes?: string;
  /** `version` of /info: the response can be cached for a year. */
  version?: string;
  /** `placeholders.data_uri` of /info, shown until the image is loaded. */
  placeholder?: string;
  /** Overrides the layout; a class cannot override it. */
  style?: CSSProperties;
  /** The final has replaced the draft. */
  onFinal?: ImgHTMLAttributes<HTMLImageElement>["onLoad"];
}

export function SmartImage(props: SmartImageProps): ReactElement;

export interface AIAnalysisDisplayProps extends HTMLAttributes<HTMLDListElement> {
  base?: string;
  mediaId: number | string | null | undefined;
  showStyle?: boolean;
  showColors?: boolean;
  showQuality?: boolean;
  showMood?: boolean;
}

export function AIAnalysisDisplay(props: AIAnalysisDisplayProps): ReactElement;

export function SmartserveProvider(props: {
  base: string;
  sign?: Signer;
  children?: ReactNode;
}): ReactElement;
