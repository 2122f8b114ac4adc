// `bullmq` without Redis: jobs of the server. `connection` is ignored.

import { add, find, register } from "../src/queue.js";

export class Queue {
  constructor(name) {
    this.name = name;
  }
  async add(name, data, options) {
    return add(this.name, name, data, options);
  }
  async getJob(id) {
    return find(this.name, id);
  }
  async close() {}
}

export class Worker {
  constructor(name, handler, { concurrency = 1 } = {}) {
    this.name = name;
    register(name, "*", concurrency, handler);
  }
  async close() {}
}
