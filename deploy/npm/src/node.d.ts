import type { AnalyzedMetadata, ProcessingInsights, QualityMetrics } from "./metadata.js";

import type { Signer } from "./urls.js";

export { AnalysisError } from "./metadata.js";
export type * from "./metadata.js";
export { SUPPORTED_IMAGE_EXTENSIONS, SUPPORTED_IMAGE_MIMES } from "./formats.js";

export interface ExtractorOptions {
  /** Default: `IMAGE_SERVER_URL`, or http://127.0.0.1:8080. */
  base?: string;
  /** Default: `IMAGE_SERVER_TOKEN`. */
  token?: string;
  /** Of the file, if it is not that of the path. */
  name?: string;
  signal?: AbortSignal;
}

export type ImageSource = string | URL | Blob | ArrayBufferView;

export function extractMetadataFromImage(pathOrBlob: ImageSource, options?: ExtractorOptions): Promise<AnalyzedMetadata>;

export interface ImageExtractorOptions extends ExtractorOptions {
  progressCallback?: (percentage: number, stage: string) => void;
  /** Always on. */
  streaming?: boolean;
  /** Always on. */
  qualityMetrics?: boolean;
  /** The content decides. */
  format?: string;
}

export class ImageExtractor {
  constructor(options?: ExtractorOptions);
  extract(
    pathOrBlob: ImageSource,
    options?: ImageExtractorOptions,
  ): Promise<AnalyzedMetadata & { quality_metrics: QualityMetrics; processing_insights: ProcessingInsights }>;
}

export class StreamingMetadataExtractor extends ImageExtractor {}

export interface SigningOptions {
  /** As in `access.keys` of the server. It must never reach a browser. */
  key: string;
  /** The key's id there. */
  keyId: string;
  /** Seconds; the URL is valid for half of it to all of it. Default: 3600. */
  ttl?: number;
  /** In seconds since 1970, instead of `ttl`. */
  expires?: number;
}

export function createSigner(options: SigningOptions): Signer;
export function signUrl(url: string | URL, options: SigningOptions): string;
export function signOriginalUrl(
  base: string,
  id: number | string,
  options: SigningOptions & { metadata?: "kept" | "stripped" },
): string;
