// For programs that run in Node.js: extraction of files by path, streamed to the server, and signed URLs.

import { createHmac } from "node:crypto";
import { openAsBlob } from "node:fs";
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { follow, newSession } from "./metadata-progress.js";
import { analyze, extract } from "./upload.js";
import { variantOf } from "./urls.js";

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

const MIN_KEY_BYTES = 32;
const SIGNED = /(^|&)(?:exp|kid|sig)=[^&]*/gi;

// Without `expires` (seconds since 1970), a URL is valid for half of `ttl` seconds to all of it, so that
// equal requests get equal URLs, which browsers find in their caches.
const expiryOf = ({ ttl = 3600, expires, now = Date.now() / 1000 }) => {
  const step = Math.max(1, Math.floor(ttl / 2));
  return expires ?? (Math.floor(Math.floor(now) / step) + 2) * step;
};

function signed(url, scope, id, covers, options) {
  const { key, keyId } = options;
  if (typeof key !== "string" || Buffer.byteLength(key) < MIN_KEY_BYTES) {
    throw new TypeError(`key must be a text of at least ${MIN_KEY_BYTES} bytes, as in access.keys of the server`);
  }
  if (!/^[\w-]{1,32}$/.test(keyId ?? "")) throw new TypeError("keyId must be the key's id in access.keys");
  const expires = expiryOf(options);
  const text = ["smartserve-url-v1", scope, id, covers, expires, keyId].join("\n");
  const value = createHmac("sha256", key).update(text).digest("base64url");
  const [path, ...queries] = url.split("#")[0].split("?");
  const query = queries.join("?");
  const kept = query.replace(SIGNED, "").replace(/^&/, "");
  return `${path}?${kept}${kept && "&"}exp=${expires}&kid=${keyId}&sig=${value}`;
}

/**
 * Return a signer for components and loaders that run on your server. The key must never reach a
 * browser: whoever has it can sign every URL.
 */
export const createSigner = (options) => ({ url, id, covers }) => signed(url, "rendition", id, covers, options);

/** Return the URL of an image with its signature. */
export const signUrl = (url, options) => createSigner(options)(variantOf(url));

/** Return the signed URL of an original; `metadata` is "kept" or "stripped". */
export function signOriginalUrl(base, id, { metadata = "kept", ...options }) {
  const url = `${base.replace(/\/$/, "")}/api/media/${id}/original?metadata=${metadata}`;
  return signed(url, "original", id, `metadata=${metadata}`, options);
}
