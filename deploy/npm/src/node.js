// Extraction for programs that run in Node.js: files by path, streamed to the server.

import { openAsBlob } from "node:fs";
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { follow, newSession } from "./metadata-progress.js";
import { analyze, extract } from "./upload.js";

export { AnalysisError } from "./upload.js";
export { SUPPORTED_IMAGE_EXTENSIONS, SUPPORTED_IMAGE_MIMES } from "./formats.js";

const DEFAULT_BASE = "http://127.0.0.1:8080";

// Programs that were written for a local function pass no address: it is in the environment.
export const serverOf = ({ base, token, signal, name } = {}) => ({
  base: base ?? process.env.IMAGE_SERVER_URL ?? DEFAULT_BASE,
  token: token ?? process.env.IMAGE_SERVER_TOKEN,
  signal,
  name,
});

export async function blobOf(path) {
  // `openAsBlob` does not say why it fails: this says that there is no such file.
  await (await open(path)).close();
  return openAsBlob(path);
}

// A file on disk is read while it is sent, so a large one does not fill the memory.
async function fileOf(pathOrBlob, options) {
  const server = serverOf(options);
  if (pathOrBlob instanceof Blob) return [pathOrBlob, server];
  if (ArrayBuffer.isView(pathOrBlob)) return [new Blob([pathOrBlob]), server];
  const name = server.name ?? basename(String(pathOrBlob));
  return [await blobOf(pathOrBlob), { ...server, name }];
}

/** Return the metadata object of a file: a path, a Blob (File) or bytes. Throws AnalysisError. */
export async function extractMetadataFromImage(pathOrBlob, options = {}) {
  const [file, server] = await fileOf(pathOrBlob, options);
  return (await analyze(file, server)).complete_metadata;
}

/** Extracts with progress and quality metrics. */
export class ImageExtractor {
  constructor(options = {}) {
    this.options = options;
  }

  /**
   * Return the metadata object of a file with `quality_metrics` and `processing_insights`.
   * `progressCallback` gets per cent and stage. The server always streams and measures, and finds the
   * format in the content: `streaming`, `qualityMetrics` and `format` are accepted and change nothing.
   */
  async extract(pathOrBlob, { progressCallback, streaming, qualityMetrics, format, ...options } = {}) {
    const [file, server] = await fileOf(pathOrBlob, { ...this.options, ...options });
    const sessionId = progressCallback && newSession();
    const stop = new AbortController();
    let last = -1;
    const report = (percentage, stage) => {
      if (percentage <= last) return;
      last = percentage;
      progressCallback?.(percentage, stage);
    };
    const onChange = ({ percentage, stage, status }) => status !== "waiting" && report(percentage, stage);
    // A failure of the progress does not fail the extraction.
    if (sessionId) follow(sessionId, { base: server.base, onChange, signal: stop.signal }).catch(() => {});
    try {
      const answer = await extract(file, { ...server, sessionId });
      report(100, "complete");
      return { ...answer.metadata, quality_metrics: answer.quality_metrics, processing_insights: answer.processing_insights };
    } finally {
      stop.abort();
    }
  }
}

/** The same: every extraction is streamed. */
export class StreamingMetadataExtractor extends ImageExtractor {}
