// Formats numbers and headers as text.

export const NAMES = { avif: "AVIF", webp: "WebP", jpeg: "JPEG", png: "PNG", gif: "GIF" };

export function bytes(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = count / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function time(seconds) {
  if (seconds < 0.0095) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

export const percent = (share) => `${Math.round(share * 100)} %`;

export function formatOf(mediaType) {
  return (mediaType ?? "").replace(/^image\//, "").replace(/;.*/, "");
}

const ORIGINS = {
  memory: "from memory",
  disk: "from the disk cache",
  render: "rendered for this request",
  coalesced: "rendered once for several concurrent requests",
  fallback: "fallback: the nearest stored size, because this one was not available in time",
  "not-modified": "not modified: only headers were sent",
};

// Return Cache-Status (RFC 9211) and Server-Timing as a sentence.
export function origin(cacheStatus, timing) {
  const detail = /detail=([a-z-]+)/.exec(cacheStatus ?? "")?.[1];
  const stored = /;\s*hit/.test(cacheStatus ?? "");
  const stages = [...(timing ?? "").matchAll(/([a-z_]+);dur=([0-9.]+)/g)];
  const timings = stages.map(([, stage, ms]) => `${stage} ${time(ms / 1000)}`).join(", ");
  let text = ORIGINS[detail];
  if (detail === "draft") text = stored ? "draft from the cache" : "draft, rendered for this request";
  if (!text) return "";
  return `${text[0].toUpperCase()}${text.slice(1)}${timings ? `; server time: ${timings}` : ""}.`;
}

// Return draft, fallback or final.
export const stageOf = (cacheStatus) => /detail=(draft|fallback)/.exec(cacheStatus ?? "")?.[1] ?? "final";
