// Prometheus' text format, and the four figures that the page makes of it.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const PICTURES = new Set(["serve", "api_images"]);
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
    if (name !== "request_seconds_bucket" || !PICTURES.has(labels.route)) continue;
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    found.set(bound, (found.get(bound) ?? 0) + value);
  }
  return [...found].sort(([one], [other]) => one - other);
}

// The time below which a share of all requests were answered, straight lines between the bounds.
export function quantile(bounds, share) {
  const count = bounds.at(-1)?.[1] ?? 0;
  if (!count) return null;
  let below = [0, 0];
  for (const [bound, reached] of bounds) {
    if (reached >= share * count) {
      if (bound === Infinity) return below[0];
      const part = (share * count - below[1]) / (reached - below[1] || 1);
      return below[0] + (bound - below[0]) * part;
    }
    below = [bound, reached];
  }
  return below[0];
}

export function figures(samples) {
  const pictures = ({ route, status }) => PICTURES.has(route) && Number(status) < 400;
  const answered = total(samples, "requests_total", pictures);
  const cached = total(samples, "requests_total", (one) => pictures(one) && FROM_CACHE.has(one.source));
  const bounds = buckets(samples);
  return {
    answered,
    cached,
    median: quantile(bounds, 0.5),
    late: quantile(bounds, 0.95),
    waiting: total(samples, "queue_depth"),
    rendering: total(samples, "renders_in_flight"),
    backlog: total(samples, "upgrade_backlog"),
    saved: total(samples, "bytes_saved_total"),
    finals: total(samples, "upgrade_seconds_count"),
  };
}
