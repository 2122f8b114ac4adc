import type { ReactElement } from "react";
import type { Analysis, AnalyzedMetadata, ProcessingInsights, QualityMetrics } from "./metadata.js";
import type { ProgressState } from "./metadata-progress.js";

export { SmartserveProvider } from "./react.js";
export { SUPPORTED_IMAGE_EXTENSIONS, SUPPORTED_IMAGE_MIMES, UNSUPPORTED_FORMAT } from "./formats.js";
export { AnalysisError } from "./metadata.js";
export type * from "./metadata.js";
export type { ProgressState } from "./metadata-progress.js";

export interface Server {
  /** The server's address: https://img.example.org. Default: of `SmartserveProvider`, or this origin. */
  base?: string;
  /** A user's token; without it, the server must allow anonymous analyses. */
  token?: string;
}

export interface ImageAnalyzerState {
  /** A second call cancels the first, which then throws an `AbortError`. Throws what sets `error`. */
  analyzeImage(file: File | Blob): Promise<Analysis>;
  isAnalyzing: boolean;
  result: Analysis | null;
  error: string | null;
  /** Cancels a running analysis, and forgets result and error. */
  clear(): void;
  /** Of the last analysis, for `ProgressTracker`. */
  sessionId: string | null;
}

export function useImageAnalyzer(server?: Server): ImageAnalyzerState;

export interface ImageAnalyzerProps extends Server {
  className?: string;
}
export function ImageAnalyzer(props: ImageAnalyzerProps): ReactElement;

export interface DropzoneUploadProps {
  onFileSelect?: (file: File) => unknown;
  isAnalyzing?: boolean;
  className?: string;
}
export function DropzoneUpload(props: DropzoneUploadProps): ReactElement;

export interface MetadataDisplayProps {
  /** The answer of any route that extracts metadata, or the metadata object itself. */
  data: object;
  /** Default: of the answer. */
  filename?: string;
  /** In bytes. Default: of the answer. */
  filesize?: number;
  onClear?: () => void;
  className?: string;
}
export function MetadataDisplay(props: MetadataDisplayProps): ReactElement;

export interface QualityIndicatorProps {
  qualityMetrics?: Partial<QualityMetrics> | null;
  processingInsights?: Partial<ProcessingInsights> | null;
  className?: string;
}
export function QualityIndicator(props: QualityIndicatorProps): ReactElement;

export interface ProgressTrackerProps {
  /** The `sessionId` that is sent with the file; nothing is shown without one. */
  sessionId?: string | null;
  base?: string;
  className?: string;
  onComplete?: (last: ProgressState) => void;
}
export function ProgressTracker(props: ProgressTrackerProps): ReactElement | null;

export interface SimpleUploadProps extends Server {
  onFileSelect?: (file: File) => unknown;
  onResult?: (result: Analysis & { metadata: AnalyzedMetadata }) => unknown;
  onError?: (error: Error) => unknown;
  className?: string;
}
export function SimpleUpload(props: SimpleUploadProps): ReactElement;
