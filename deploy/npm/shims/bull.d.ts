export interface Job {
  id: string;
  data: any;
  opts: { attempts?: number };
  attemptsMade: number;
  finishedOn: number | null;
  returnvalue: any;
  failedReason?: string;
  progress(): number;
}

export default class Queue {
  constructor(name: string, ...ignored: unknown[]);
  process(name: string, concurrency: number, handler: (job: Job) => Promise<unknown>): void;
  process(name: string, handler: (job: Job) => Promise<unknown>): void;
  process(handler: (job: Job) => Promise<unknown>): void;
  add(name: string, data: object, options?: object): Promise<Job>;
  add(data: object, options?: object): Promise<Job>;
  getJob(id: string): Promise<Job | null>;
}
