// Parses the Prometheus text format, and computes the values of the live metrics panel.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const IMAGE_ROUTES = new Set(["serve", "api_images"]);
const FROM_CACHE = new Set(["memory", "disk", "not_modified"]);

export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : LINE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(LABEL)].map((one) => one.slice(1)));
    samples.push({ name: match[1].replace(/^smartserve_/, ""), labels, value: Number(match[3]) });
  }
  return samples;
}

const total = (samples, name, wanted = () => true) =>
  samples.reduce((sum, one) => (one.name === name && wanted(one.labels) ? sum + one.value : sum), 0);

function buckets(samples) {
  const found = new Map();
  for (const { name, labels, value } of samples) {
    if (name !== "request_seconds_bucket" || !IMAGE_ROUTES.has(labels.route)) continue;
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    found.set(bound, (found.get(bound) ?? 0) + value);
  }
  return [...found].sort(([one], [other]) => one - other);
}

// Return a quantile of a cumulative histogram, interpolated linearly within a bucket.
export function quantile(bounds, share) {
  const count = bounds.at(-1)?.[1] ?? 0;
  if (!count) return null;
  let lower = [0, 0];
  for (const [bound, reached] of bounds) {
    if (reached >= share * count) {
      if (bound === Infinity) return lower[0];
      const part = (share * count - lower[1]) / (reached - lower[1] || 1);
      return lower[0] + (bound - lower[0]) * part;
    }
    lower = [bound, reached];
  }
  return lower[0];
}

export function figures(samples) {
  const served = ({ route, status }) => IMAGE_ROUTES.has(route) && Number(status) < 400;
  const answered = total(samples, "requests_total", served);
  const cached = total(samples, "requests_total", (one) => served(one) && FROM_CACHE.has(one.source));
  const bounds = buckets(samples);
  return {
    answered,
    cached,
    median: quantile(bounds, 0.5),
    p95: quantile(bounds, 0.95),
    waiting: total(samples, "queue_depth"),
    rendering: total(samples, "renders_in_flight"),
    backlog: total(samples, "upgrade_backlog"),
    saved: total(samples, "bytes_saved_total"),
    finals: total(samples, "upgrade_seconds_count"),
  };
}
