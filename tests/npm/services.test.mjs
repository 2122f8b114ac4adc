// The document's services as printed, in Node.js, with a server: IMAGE_SERVER_URL, IMAGE_SERVER_TOKEN. The
// files in IMAGES are a photograph, and images that name a generator.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { mkdtemp, readFile, readdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { build } from "esbuild";
import WebSocket from "ws";

const { IMAGES } = process.env;
const image = (name) => join(IMAGES, name);
const HERE = import.meta.dirname;

// What an application of the document has itself: a database, and Prisma.
const OWN = {
  "@/lib/database": "export const db = globalThis.db;",
  "@prisma/client": "export class PrismaClient {}",
};
const own = {
  name: "own",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^@(\/lib\/database|prisma\/client)$/ }, ({ path }) => ({ path, namespace: "own" }));
    onLoad({ filter: /.*/, namespace: "own" }, ({ path }) => ({ contents: OWN[path] }));
  },
};

// Return the exports of samples and of further lines, bundled as one program.
async function load(...lines) {
  const { outputFiles } = await build({
    stdin: { contents: lines.map((one) => (one.includes(" ") ? one : `export * from "./services/${one}";`)).join("\n"), resolveDir: HERE },
    alias: {
      "@/METDATAANALYZER": "smartserve-image/shims/METDATAANALYZER",
      bull: "smartserve-image/shims/bull",
      bullmq: "smartserve-image/shims/bullmq",
      ioredis: "smartserve-image/shims/ioredis",
    },
    plugins: [own],
    external: ["ws"],
    bundle: true, platform: "node", format: "cjs", write: false, logLevel: "error",
  });
  const module = { exports: {} };
  new Function("module", "exports", "require", outputFiles[0].text)(module, module.exports, createRequire(import.meta.url));
  return module.exports;
}

// Prisma's `create`, `createMany` and `findMany` of a table in memory.
function table() {
  const rows = [];
  return {
    rows,
    create: async ({ data }) => (rows.push({ id: `id${rows.length}`, ...data }), rows.at(-1)),
    createMany: async ({ data }) => void rows.push(...data),
    findMany: async (query) => query,
  };
}

test("an asset is stored with what its metadata says, and tagged", async () => {
  globalThis.db = { assets: table(), assetTags: table() };
  const { AssetAnalysisService } = await load("AssetAnalysisService");
  class Service extends AssetAnalysisService {
    saveToStorage = async (file) => image(file.name);
  }
  const asset = await new Service().processUpload({ name: "midjourney.png", size: 7 }, "user");
  assert.deepEqual([asset.isAiGenerated, asset.aiGenerator, asset.mjVersion], [true, "midjourney", "6.1"]);
  assert.deepEqual(db.assetTags.rows.map(({ tag }) => tag), ["ai-midjourney", "style-raw"]);
  const photo = await new Service().processUpload({ name: "photo.jpg", size: 7 }, "user");
  assert.deepEqual([photo.isAiGenerated, photo.aiGenerator, photo.prompt], [false, "unknown", null]);
  assert.equal(db.assetTags.rows.length, 2);
});

test("a prompt with a concerning term is flagged for review", async () => {
  const { ModerationService } = await load("ModerationService");
  const service = new ModerationService();
  const { requiresReview, flags } = await service.analyzeForModeration(image("violence.png"));
  assert.equal(requiresReview, true);
  assert.deepEqual(flags.map(({ type }) => type), ["ai_generated", "concerning_prompt"]);
  const chaos = await service.analyzeForModeration(image("midjourney.png"));
  assert.deepEqual(chaos.flags.map(({ type, value }) => [type, value]), [["ai_generated", undefined], ["high_chaos", 90]]);
  const photo = await service.analyzeForModeration(image("photo.jpg"));
  assert.deepEqual(photo.flags, []);
});

test("files are organized by generator", async () => {
  const { TrainingDataService } = await load("TrainingDataService");
  const output = await mkdtemp(join(tmpdir(), "classified-"));
  const report = await new TrainingDataService().classifyAndOrganize(IMAGES, output);
  assert.deepEqual(report.breakdown, { midjourney: 1, unknown: 1, stable_diffusion: 1 });
  assert.deepEqual((await readdir(join(output, "midjourney"))).sort(), ["midjourney.png", "midjourney_metadata.json"]);
  const metadata = JSON.parse(await readFile(join(output, "stable_diffusion", "violence_metadata.json")));
  assert.equal(metadata.ai_generation.seed, "18446744073709551615");
});

test("an analysis becomes a row with tags, and a search a query", async () => {
  const { ImageDatabaseService } = await load("ImageDatabaseService");
  const prisma = { image: table(), imageTag: table() };
  const service = new ImageDatabaseService(prisma);
  const row = await service.createFromAnalysis(image("violence.png"), "violence.png", 7, "user");
  assert.deepEqual([row.steps, row.cfgScale, row.sampler, row.seed], [20, 7, "Euler a", "18446744073709551615"]);
  assert.deepEqual([row.width, row.height, row.comfyNodeCount], [64, 48, null]);
  assert.deepEqual(prisma.imageTag.rows.map(({ tag }) => tag), ["generator:stable_diffusion", "model:dreamshaper_8"]);
  await service.createFromAnalysis(image("midjourney.png"), "midjourney.png", 7, "user");
  assert.deepEqual(prisma.imageTag.rows.slice(2).map(({ tag }) => tag), ["generator:midjourney", "midjourney:v6.1", "style:raw", "high-quality"]);
  const { where } = await service.searchByMetadata({ aiGenerator: "midjourney", tags: ["high-quality"] });
  assert.equal(where.aiGenerator, "midjourney");
});

const settled = async (check) => {
  for (;;) {
    const found = await check();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};

test("jobs of the queue are extracted by the server, stored, and reported", async () => {
  const { BatchProcessingService } = await load("BatchProcessingService");
  class Service extends BatchProcessingService {
    stored = [];
    told = [];
    storeResults = async (metadata, user) => void this.stored.push([user, metadata.ai_generation.source]);
    notifyUser = async (user, message) => void this.told.push([user, message.status]);
  }
  const service = new Service();
  const ids = [await service.queueAnalysis(image("violence.png"), "a"), await service.queueAnalysis(image("photo.jpg"), "b")];
  const jobs = await settled(async () => {
    const found = await service.getBatchStatus(ids);
    for (const { status } of found) assert.match(status, /^(pending|processing|completed)$/);
    return found.every(({ status }) => status === "completed") && found;
  });
  assert.deepEqual(jobs.map(({ id, progress }) => [id, progress]), ids.map((id) => [id, 100]));
  assert.equal(jobs[0].result.metadata.ai_generation.source, "stable_diffusion");
  assert.deepEqual(service.stored.sort(), [["a", "stable_diffusion"], ["b", "unknown"]]);
  assert.deepEqual(service.told.map(([, status]) => status), ["completed", "completed"]);
});

test("the background processor calls back when a job is done", async (t) => {
  const { BackgroundMetadataProcessor, Queue } = await load("BackgroundProcessor", 'export { Queue } from "bullmq";');
  const called = [];
  const receiver = createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    called.push(JSON.parse(Buffer.concat(parts)));
    response.end();
  });
  t.after(() => receiver.close().closeAllConnections());
  await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
  new BackgroundMetadataProcessor();
  const callback = `http://127.0.0.1:${receiver.address().port}/`;
  await new Queue("metadata-analysis").add("analyze", { imagePath: image("midjourney.png"), callback });
  await settled(() => called.length);
  assert.equal(called[0].metadata.ai_generation.source, "midjourney");
});

test("a socket reports start, progress and result, and errors by session", async (t) => {
  const { RealtimeAnalysisService } = await load("RealtimeAnalysisService");
  const server = createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { wss } = new RealtimeAnalysisService(server);
  t.after(() => {
    for (const client of wss.clients) client.terminate();
    server.close().closeAllConnections();
  });
  const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}/`);
  await new Promise((resolve) => socket.once("open", resolve));
  const ask = (message, last) =>
    new Promise((resolve) => {
      const heard = [];
      const listen = (data) => {
        heard.push(JSON.parse(data));
        if (heard.at(-1).type !== last) return;
        socket.off("message", listen);
        resolve(heard);
      };
      socket.on("message", listen);
      socket.send(message);
    });
  const heard = await ask(JSON.stringify({ type: "analyze", sessionId: "s", imagePath: image("violence.png") }), "analysis_complete");
  assert.deepEqual(heard.map(({ type, progress }) => [type, progress]), [
    ["analysis_started", undefined], ["progress", 10], ["progress", 50], ["progress", 100], ["analysis_complete", undefined],
  ]);
  assert.equal(heard.at(-1).metadata.ai_generation.source, "stable_diffusion");
  const failed = await ask(JSON.stringify({ type: "analyze", sessionId: "t", imagePath: "/nowhere.png" }), "analysis_error");
  assert.equal(failed.at(-1).sessionId, "t");
  await ask("no JSON", "error");
  socket.terminate();
});

test("the cache keeps metadata by the content of the file, and counts", async () => {
  const { MetadataCacheService } = await load("CacheService");
  const cache = new MetadataCacheService();
  const file = await readFile(image("photo.jpg"));
  assert.equal(await cache.getCachedMetadata(file), null);
  await cache.setCachedMetadata(file, { width: 1 });
  assert.deepEqual(await cache.getCachedMetadata(file), { width: 1 });
  await cache.setCachedMetadata(Buffer.from("old"), {}, 0);
  assert.equal(await cache.getCachedMetadata(Buffer.from("old")), null);
  assert.deepEqual(await cache.getAnalysisStats(), { totalCached: 1, cacheHits: "1", cacheMisses: "2" });
});
