// `bull` without Redis: jobs of the server. The address of Redis is ignored.

import { add, find, register } from "../src/queue.js";

export default class Queue {
  constructor(name) {
    this.name = name;
  }
  process(...given) {
    const handler = given.pop();
    const concurrency = typeof given.at(-1) === "number" ? given.pop() : 1;
    register(this.name, given[0] ?? "*", concurrency, handler);
  }
  async add(...given) {
    const [name, data, options] = typeof given[0] === "string" ? given : ["__default__", ...given];
    return add(this.name, name, data, options);
  }
  async getJob(id) {
    return find(this.name, id);
  }
}
