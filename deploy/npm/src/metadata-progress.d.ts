import type { QualityMetrics } from "./metadata.js";

export interface ProgressState {
  connection: "connecting" | "live" | "polling" | "lost" | "closed";
  status: "waiting" | "running" | "complete" | "failed";
  percentage: number;
  stage: string;
  remainingMs: number | null;
  quality: QualityMetrics | null;
  error: string;
}
