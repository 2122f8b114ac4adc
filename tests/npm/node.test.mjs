// Extraction in Node.js with a server: IMAGE_SERVER_URL, IMAGE_SERVER_TOKEN; files are in IMAGES.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { ImageExtractor, StreamingMetadataExtractor, extractMetadataFromImage } from "smartserve-image/node";

const image = (name) => join(process.env.IMAGES, name);

test("a path, a Blob and bytes give the same metadata", async () => {
  const bytes = await readFile(image("violence.png"));
  const [first, ...others] = await Promise.all(
    [image("violence.png"), new Blob([bytes]), bytes].map((source) => extractMetadataFromImage(source, { name: "a.png" })),
  );
  assert.equal(first.ai_generation.source, "stable_diffusion");
  for (const other of others) assert.deepEqual(other, first);
});

test("the sample of an image extractor runs as printed, and reports progress", async () => {
  const tempPath = image("midjourney.png");
  const fileExt = "png";
  const seen = [];
  const progressCallback = (percentage, stage) => seen.push([percentage, stage]);
  const imageExtractor = new ImageExtractor();
  const rawMetadata = await imageExtractor.extract(tempPath, {
    progressCallback,
    streaming: true,
    qualityMetrics: true,
    format: fileExt || 'auto'
  });
  assert.equal(rawMetadata.ai_generation.source, "midjourney");
  assert.equal(typeof rawMetadata.quality_metrics.confidence_score, "number");
  assert.equal(rawMetadata.processing_insights.streaming_enabled, true);
  assert.deepEqual(seen.at(-1), [100, "complete"]);
  const plain = await new StreamingMetadataExtractor().extract(tempPath, { streaming: false, qualityMetrics: false });
  assert.equal(typeof plain.quality_metrics.confidence_score, "number");
});

test("errors have the sentence, the status and the code of the server", async () => {
  const text = new Blob(["this is no image"]);
  await assert.rejects(extractMetadataFromImage(text, { name: "text.jpg" }), (error) => {
    assert.deepEqual([error.name, error.status, error.code], ["AnalysisError", 400, "INVALID_FILE_TYPE"]);
    return /20\+ formats/.test(error.message);
  });
  await assert.rejects(extractMetadataFromImage("/nowhere.png"), { code: "ENOENT" });
  await assert.rejects(extractMetadataFromImage(text, { base: "http://127.0.0.1:1" }), /does not respond/);
  const aborted = AbortSignal.abort(new Error("enough"));
  await assert.rejects(extractMetadataFromImage(text, { signal: aborted }), /enough/);
});
