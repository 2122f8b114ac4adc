// Compiled, and never run: the types of the analyzer.

import type { ReactElement } from "react";
import {
  DropzoneUpload, ImageAnalyzer, MetadataDisplay, ProgressTracker, QualityIndicator, SUPPORTED_IMAGE_MIMES, SimpleUpload,
  SmartserveProvider, useImageAnalyzer,
} from "smartserve-image/analyzer";
import { FORMATS } from "smartserve-image/formats";
import { AnalysisError, ImageExtractor, extractMetadataFromImage } from "smartserve-image/node";
import { QualityIndicator as Shim } from "smartserve-image/shims/components/images-mvp/quality-indicator";
import { extractMetadataFromImage as shim } from "smartserve-image/shims/METDATAANALYZER/backend/utils/image-metadata";
import { useImageAnalyzer as useInVue } from "smartserve-image/vue";

export function Analyzer({ file }: { file: File }): ReactElement {
  const { analyzeImage, isAnalyzing, result, error } = useImageAnalyzer({ base: "https://img.example.org", token: "t" });
  return (
    <SmartserveProvider base="">
      <ImageAnalyzer />
      <DropzoneUpload onFileSelect={async (one: File) => { await analyzeImage(one); }} isAnalyzing={isAnalyzing} />
      {result && <MetadataDisplay data={result} filename={result.filename} filesize={result.filesize} onClear={() => {}} />}
      <SimpleUpload onResult={({ metadata }) => metadata.ai_generation.seed?.length} />
      <ProgressTracker sessionId="0123456789abcdef" className="wide" />
      <QualityIndicator qualityMetrics={{ confidence_score: 1 }} processingInsights={null} className="wide" />
      <Shim qualityMetrics={null} />
      <p>{error?.length} {file.name} {SUPPORTED_IMAGE_MIMES[0]} {FORMATS[0].level}</p>
    </SmartserveProvider>
  );
}
export const source: Promise<"unknown" | string> = extractMetadataFromImage("photo.jpg").then((one) => one.ai_generation.source);
export const same: typeof extractMetadataFromImage = shim;
export const quality: Promise<number> = new ImageExtractor({ token: "t" })
  .extract("photo.jpg", { progressCallback: (percentage, stage) => percentage + stage.length, streaming: true, qualityMetrics: true, format: "auto" })
  .then((one) => one.quality_metrics.confidence_score);
export const status = (error: AnalysisError): number | undefined => error.status;
export const vue: boolean = useInVue({ base: "" }).isAnalyzing.value;
// @ts-expect-error the answer is needed
export const wrong: ReactElement = <MetadataDisplay filename="photo.jpg" />;
// @ts-expect-error a seed is text
export const seed: Promise<number | null> = extractMetadataFromImage("photo.jpg").then((one) => one.ai_generation.seed);
