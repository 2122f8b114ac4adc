/** What a file says of the AI that generated it. Unknown values are null, unknown lists are empty. */
export interface AIGeneration {
  source:
    | "midjourney" | "comfyui" | "stable_diffusion" | "novelai" | "invokeai" | "fooocus" | "dall-e" | "firefly"
    | "google" | "microsoft" | "ml_lib" | "other" | "unknown";
  generator: string | null;
  involvement: "generated" | "composite" | "none_found";
  prompt: string | null;
  negativePrompt: string | null;
  steps: number | null;
  cfgScale: number | null;
  sampler: string | null;
  scheduler: string | null;
  /** Text, because seeds exceed the integers of JavaScript. */
  seed: string | null;
  checkpoint: string | null;
  model: string | null;
  vae: string | null;
  clipSkip: number | null;
  loras: { name: string; weight: number | null; hash: string | null }[];
  mjVersion: string | null;
  mjAspectRatio: string | null;
  mjChaos: number | null;
  mjQuality: number | null;
  mjStylize: number | null;
  mjStyle: string | null;
  mjRaw: boolean | null;
  mjWeirdness: number | null;
  mjExperimental: number | null;
  mjJobId: string | null;
  rawParameters: Record<string, unknown> & { comfyNodeCount: number | null; comfyWorkflowId: string | null; workflow: unknown };
  digital_source_type: string | null;
  /** Strength of the best evidence, 0 to 1. It is not a probability. */
  confidence: number;
  evidence: { class: string; where: string; key: string; says: string }[];
  [field: string]: unknown;
}

export interface AnalyzedMetadata {
  schema: number;
  format: string;
  mime_type: string;
  extension_matches: boolean | null;
  sha256: string | null;
  width: number | null;
  height: number | null;
  orientation: number | null;
  exif: Record<string, unknown>;
  gps: { latitude: number | null; longitude: number | null; altitude: number | null; taken_at: string | null } | null;
  groups: Record<string, Record<string, unknown>>;
  text: { keyword: string | null; where: string; language: string | null; text: string }[];
  ai_generation: AIGeneration;
  c2pa: Record<string, unknown> | null;
  warnings: string[];
  truncated: string[];
  withheld: { groups: string[]; fields: string[]; needs: string } | null;
  reasons: Record<string, string>;
  [field: string]: unknown;
}

export interface QualityMetrics {
  confidence_score: number;
  confidence_basis: { deduction: number; reason: string }[];
  extraction_completeness: number | null;
  processing_efficiency: number;
  format_support_level: "comprehensive" | "standard" | "basic" | "unsupported";
  enhanced_extraction: boolean;
  streaming_enabled: boolean;
  recommended_actions: string[];
}

export interface ProcessingInsights {
  total_fields_extracted: number;
  processing_time_ms: number;
  queued_ms: number;
  memory_usage_mb: number | null;
  streaming_enabled: boolean;
  fallback_extraction: boolean;
  engine_version: string | null;
}

/** The answer of the analyzer: the most wanted fields, and all of them in `complete_metadata`. */
export interface Analysis {
  success: boolean;
  filename: string;
  filesize: number;
  is_ai_generated?: boolean;
  ai_generator_type?: string;
  prompt?: string | null;
  complete_metadata?: AnalyzedMetadata;
  [field: string]: unknown;
}

export class AnalysisError extends Error {
  /** Of the response; undefined if there is none. */
  status?: number;
  code?: string;
}
