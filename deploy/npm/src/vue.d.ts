import type { Ref } from "vue";
import type { Analysis } from "./metadata.js";

export { AnalysisError } from "./metadata.js";
export type * from "./metadata.js";

export function useImageAnalyzer(server?: { base?: string; token?: string }): {
  analyzeImage(file: File | Blob): Promise<Analysis>;
  isAnalyzing: Ref<boolean>;
  result: Ref<Analysis | null>;
  error: Ref<string | null>;
  clear(): void;
};
