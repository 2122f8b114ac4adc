// `ioredis` for a cache of metadata, in the memory of this process. It reads no address. The server has
// a cache of its own, which all processes share.

const MAX_KEYS = 10_000;

export default class Redis {
  #values = new Map();
  #counts = { cache_hits: 0, cache_misses: 0 };

  #find(key) {
    const found = this.#values.get(key);
    if (found && found.until <= Date.now()) this.#values.delete(key);
    return this.#values.get(key);
  }

  async get(key) {
    if (key in this.#counts) return String(this.#counts[key]);
    const found = this.#find(key);
    if (key.startsWith("metadata:")) this.#counts[found ? "cache_hits" : "cache_misses"] += 1;
    return found ? found.value : null;
  }

  async setex(key, seconds, value) {
    this.#values.delete(key);
    this.#values.set(key, { value: String(value), until: Date.now() + seconds * 1000 });
    // A Map is in the order of insertion: the oldest goes first.
    if (this.#values.size > MAX_KEYS) this.#values.delete(this.#values.keys().next().value);
    return "OK";
  }

  async keys(pattern) {
    const start = pattern.replace(/\*$/, "");
    return [...this.#values.keys()].filter((key) => key.startsWith(start) && this.#find(key));
  }
}
