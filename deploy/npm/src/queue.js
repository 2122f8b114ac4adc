// Queues with the interface of Bull and BullMQ on the jobs of the server, without Redis. A job is the
// extraction of `data.imagePath`: the server keeps it, repeats it if it fails, and returns its state to
// any process. Handlers run in the process that added the job; their extraction is then in the cache.

import { basename } from "node:path";
import { blobOf, serverOf } from "./node.js";
import { fetchJson, upload } from "./upload.js";

const POLL_MS = 500;
const BACK_OFF_MS = 1000;
const KEPT = 10_000;
const JOBS = "/api/extract/jobs";

const queues = new Map();
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Of one name there is one queue in a process, for BullMQ's separate queues and workers.
function queueOf(name) {
  if (!queues.has(name)) queues.set(name, { handlers: new Map(), jobs: new Map(), waiting: [], running: 0 });
  return queues.get(name);
}

class Job {
  constructor(id, name, data, opts) {
    Object.assign(this, { id, name, data, opts, attemptsMade: 0, finishedOn: null, returnvalue: undefined, failedReason: undefined });
    this.percentage = 0;
  }
  progress() {
    return this.percentage;
  }
}

async function stateOf(ids) {
  const { jobs } = await fetchJson(`${JOBS}?${new URLSearchParams({ ids })}`, serverOf());
  return jobs[0];
}

async function handle(job, handler) {
  const attempts = job.opts.attempts ?? 1;
  for (;;) {
    try {
      return await handler(job);
    } catch (error) {
      job.attemptsMade += 1;
      if (job.attemptsMade >= attempts) throw error;
      await sleep(BACK_OFF_MS * 2 ** (job.attemptsMade - 1) * (0.5 + Math.random()));
    }
  }
}

// Resolve when the server has ended a job. A server that is unavailable or restarts keeps it.
async function ended(id) {
  for (;;) {
    const found = await stateOf(id).catch((error) => {
      if (error.status && error.status < 500 && error.status !== 429) throw error;
    });
    if (found && found.status !== "pending" && found.status !== "processing") return;
    await sleep(POLL_MS);
  }
}

async function process(job, handler) {
  try {
    // Also if the job has failed: the handler extracts the file itself, and reports the same error.
    await ended(job.id);
    job.returnvalue = await handle(job, handler);
    job.percentage = 100;
  } catch (error) {
    job.failedReason = error.message;
  }
  job.finishedOn = Date.now();
}

function next(queue) {
  const at = queue.waiting.findIndex((job) => queue.handlers.has(job.name) || queue.handlers.has("*"));
  if (at < 0) return;
  const { handler, concurrency } = queue.handlers.get(queue.waiting[at].name) ?? queue.handlers.get("*");
  if (queue.running >= concurrency) return;
  const [job] = queue.waiting.splice(at, 1);
  queue.running += 1;
  process(job, handler).finally(() => {
    queue.running -= 1;
    next(queue);
  });
  next(queue);
}

export async function add(queueName, name, data, opts = {}) {
  if (typeof data?.imagePath !== "string") throw new TypeError("A job needs data.imagePath: the file to extract.");
  const file = await blobOf(data.imagePath);
  const { id } = await upload(JOBS, file, { ...serverOf(), name: basename(data.imagePath) });
  const job = new Job(id, name, data, opts);
  const queue = queueOf(queueName);
  queue.jobs.set(id, job);
  if (queue.jobs.size > KEPT) queue.jobs.delete(queue.jobs.keys().next().value);
  queue.waiting.push(job);
  next(queue);
  return job;
}

export function register(queueName, name, concurrency, handler) {
  const queue = queueOf(queueName);
  queue.handlers.set(name, { handler, concurrency });
  next(queue);
}

/** Return a job of any process, or null. */
export async function find(queueName, id) {
  const found = await stateOf(id);
  if (!found || found.status === "unknown") return null;
  const own = queueOf(queueName).jobs.get(id);
  const job = new Job(id, own?.name, own?.data, { ...own?.opts });
  const handled = own && queueOf(queueName).handlers.size > 0;
  const ended = handled ? own.finishedOn !== null : ["completed", "failed"].includes(found.status);
  job.percentage = ended && found.status === "completed" ? 100 : found.progress;
  job.returnvalue = handled ? own.returnvalue : (found.result ?? undefined);
  job.failedReason = own?.failedReason ?? found.error ?? undefined;
  job.finishedOn = ended ? (own?.finishedOn ?? Date.now()) : null;
  // The document's `getBatchStatus` calls every job with `attempts` processing, also when it has ended.
  job.opts.attempts = !ended && found.status !== "pending" ? (own?.opts.attempts ?? 1) : undefined;
  return job;
}
