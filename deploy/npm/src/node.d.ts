import type { AnalyzedMetadata, ProcessingInsights, QualityMetrics } from "./metadata.js";

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
