export type PictureFormat = "avif" | "webp" | "jpeg" | "jpg" | "png" | "gif";

export interface PictureOperations {
  /** In pixels; rounded up to the next of `WIDTHS`. */
  width?: number | string;
  /** A named size of the server, if no width is given. */
  size?: string;
  dpr?: number;
  /** Without it, the Accept header decides. */
  format?: PictureFormat | (string & {});
  background?: "original" | "removed" | (string & {});
  /** Changes when the image changes; the URL can then be cached for a year. */
  version?: string;
}

export interface ParsedPicture {
  /** Empty if the source names no host. */
  base: string;
  id: string;
  operations: PictureOperations;
}

/** The URL of an image before it is signed. */
export interface Variant {
  id: string;
  /** What the signature has to cover: `size=detail&dpr=1&format=auto&bg=auto`. */
  covers: string;
  url: string;
}

/** Returns the URL with its signature. */
export type Signer = (variant: Variant) => string;

export const WIDTHS: readonly number[];
/** The named sizes that the server has by default; of others, URLs must have the case of its settings. */
export const SIZES: readonly string[];
/** Width and height of the named sizes that crop. */
export const COVERS: Readonly<Record<string, readonly [number, number]>>;
export function isPictureId(id: unknown): boolean;
export function snap(width: number): number;
export function variantOf(url: string | URL): Variant;
export function pictureUrl(
  base: string,
  id: number | string,
  operations?: PictureOperations,
  sign?: Signer,
): string;
export function parsePicture(source: number | string | URL): ParsedPicture | null;
export function pictureSrcset(
  base: string,
  id: number | string,
  widest: number,
  operations?: PictureOperations,
  sign?: Signer,
): string;

export type Likelihood =
  | "UNKNOWN"
  | "VERY_UNLIKELY"
  | "UNLIKELY"
  | "POSSIBLE"
  | "LIKELY"
  | "VERY_LIKELY";

export interface Detected {
  name: string;
  /** 0 to 1. */
  confidence: number;
  /** Left, top, right, bottom as fractions of width and height; null if not located. */
  box?: [number, number, number, number] | null;
}

/** The `analysis` of `GET /info/{id}`. Null: not determined. */
export interface ImageAnalysis {
  kind: string;
  style: string | null;
  medium: string | null;
  subject: string | null;
  /** 0 to 100. */
  quality_score: number;
  mood_keywords: string[];
  detected_objects: Detected[] | null;
  detected_text: string | null;
  /** Brands whose logo the image contains. */
  detected_logos: Detected[] | null;
  labels: Detected[] | null;
  safe_search: Record<"adult" | "spoof" | "medical" | "violence" | "racy", Likelihood> | null;
  confidence_score: number | null;
  /** Of logos. */
  brand_colors: string[] | null;
  /** Of images of sites. */
  site_context: {
    content_class?: { name: "banner" | "background" | "content" | "interface"; reason: string };
    brand_colors: string[] | null;
    logo_media_id: number | null;
  } | null;
  embedding: { model: string; dimensions: number } | null;
}
