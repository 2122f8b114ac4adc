import type { Job } from "./bull.js";

export type { Job };

export class Queue {
  constructor(name: string, ignored?: object);
  add(name: string, data: object, options?: object): Promise<Job>;
  getJob(id: string): Promise<Job | null>;
  close(): Promise<void>;
}

export class Worker {
  constructor(name: string, handler: (job: Job) => Promise<unknown>, options?: { concurrency?: number; connection?: unknown });
  close(): Promise<void>;
}
