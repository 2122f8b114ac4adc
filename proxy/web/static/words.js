// Figures and headers in words.

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
  render: "rendered just now",
  coalesced: "rendered just now, together with others who asked for the same",
  fallback: "the nearest size that was there, as this one could not be had in time",
  "not-modified": "unchanged: only the headers went out",
};

// Cache-Status (RFC 9211) as a sentence.
export function origin(cacheStatus, timing) {
  const detail = /detail=([a-z-]+)/.exec(cacheStatus ?? "")?.[1];
  const stored = /;\s*hit/.test(cacheStatus ?? "");
  const spent = [...(timing ?? "").matchAll(/([a-z_]+);dur=([0-9.]+)/g)];
  const inside = spent.map(([, stage, ms]) => `${stage} ${time(ms / 1000)}`).join(", ");
  let where = ORIGINS[detail];
  if (detail === "draft") where = stored ? "a draft that was kept" : "a draft, rendered just now";
  if (!where) return "";
  return `${where[0].toUpperCase()}${where.slice(1)}${inside ? `; on the server: ${inside}` : ""}.`;
}

export const isDraft = (cacheStatus) => /detail=draft/.test(cacheStatus ?? "");
