"use client";
// <SmartImage>: an image of a smartserve server as an <img>, with the same URLs on the server and in
// the browser. <AIAnalysisDisplay>: its analysis.

import { Fragment, createElement, useContext, useEffect, useRef, useState } from "react";
import ReactDOM from "react-dom";
import { Base, Signer, SmartserveProvider } from "./base.js";
import { COVERS, isPictureId, pictureSrcset, pictureUrl, snap } from "./urls.js";

const RETRIES = 3;
const ACCEPT = "image/avif,image/webp,*/*;q=0.8";
// Half a minute after a draft its final is usually rendered.
const FINAL_S = 30;
// A page may stay open for days.
const MAX_DRAFTS = 1000;
// React 18 knows the attribute only in lower case.
const FETCH_PRIORITY = ReactDOM.preload ? "fetchPriority" : "fetchpriority";

export { SmartserveProvider };

// With jitter: the clients of a server that was down do not return all at once.
const backOffMs = (attempt) => 1000 * 2 ** attempt * (0.5 + Math.random());

// The size that the image has in the layout. Of the named sizes only those with `cover` have a ratio
// that does not depend on the image.
function shapeOf({ width, height, size, aspectRatio, style }) {
  const cover = width || height || aspectRatio ? undefined : COVERS[size];
  const [wide, high] = (cover ?? [width, height]).map((side) => Number(side) || undefined);
  const ratio = aspectRatio ?? style?.aspectRatio ?? (wide && high ? `${wide} / ${high}` : undefined);
  return { width: wide, height: high, ratio: ratio && String(ratio) };
}

// The `<source>`s before the <img>, and the format of the <img>, which is the last one that a browser
// may need: all of them display JPEG and PNG.
function formatsOf(preferred, background) {
  const names = (typeof preferred === "string" ? preferred.match(/\w+/g) : preferred) ?? [];
  const known = names.map((name) => (name === "jpg" ? "jpeg" : name));
  // JPEG has no transparency; the server rejects it for a removed background.
  const allowed = known.filter((name) => background !== "removed" || name !== "jpeg");
  const last = allowed.findIndex((name) => name === "jpeg" || name === "png");
  const before = last < 0 ? allowed : allowed.slice(0, last);
  return { sources: before.filter((name) => name === "avif" || name === "webp"), format: allowed[last] };
}

// Attributes of an <img> or <source> with these operations.
function addresses(base, id, { size, shape, operations, sign }) {
  if (!size) {
    // Twice the width, for screens with two pixels per CSS pixel; the server never enlarges.
    const srcSet = pictureSrcset(base, id, snap(2 * (shape.width ?? Infinity)), operations, sign);
    return { src: pictureUrl(base, id, { ...operations, width: shape.width ?? 1200 }, sign), srcSet };
  }
  const src = pictureUrl(base, id, { ...operations, size }, sign);
  // If the width is unknown, a browser would show the 2x candidate of a small original at half its width.
  if (!shape.width) return { src };
  return { src, srcSet: `${src}, ${pictureUrl(base, id, { ...operations, size, dpr: 2 }, sign)} 2x` };
}

// Of the headers of an image, a page can read only Server-Timing without another request. The browser
// keeps the entries of only 250 resources, so the URLs of drafts are noted as they arrive.
const drafts = new Set();
const note = (entries) => {
  for (const { name, serverTiming } of entries) {
    drafts.delete(name);
    if (serverTiming?.some((one) => one.name === "draft" || one.name === "fallback")) drafts.add(name);
    if (drafts.size > MAX_DRAFTS) drafts.delete(drafts.values().next().value);
  }
};
// Node.js has this class, too, but no document; environments of tests may have a document without it.
const observable = typeof document !== "undefined" && typeof PerformanceObserver !== "undefined";
const observer = observable ? new PerformanceObserver((list) => note(list.getEntries())) : null;
observer?.observe({ type: "resource", buffered: true });

function isDraft(url) {
  // Entries that the callback has not got yet.
  if (observer) note(observer.takeRecords());
  return drafts.has(url);
}

// Return the date of the final, or null if there is only a draft: a draft has no Last-Modified.
async function finalDate(url) {
  const response = await fetch(url, { method: "HEAD", cache: "no-store", headers: { Accept: ACCEPT } });
  return response.ok ? response.headers.get("Last-Modified") : null;
}

function Picture({
  base, sign, mediaId, size, sizes, alt, background, preferredFormats, priority, version, placeholder,
  width, height, aspectRatio, style, onLoad, onFinal, onError, ...rest
}) {
  const [attempt, setAttempt] = useState(0);
  const [finalVersion, setFinalVersion] = useState();
  const element = useRef(null);
  const timer = useRef();
  const reported = useRef("");

  const loaded = (event) => {
    const image = event.currentTarget;
    if (reported.current === image.currentSrc) return;
    reported.current = image.currentSrc;
    if (placeholder) image.style.background = style?.background ?? "";
    if (finalVersion) return onFinal?.(event);
    onLoad?.(event);
    if (!isDraft(image.currentSrc)) return;
    const check = () => finalDate(image.currentSrc).then((date) => date && setFinalVersion(Date.parse(date) / 1000));
    timer.current = setTimeout(() => check().catch(() => {}), FINAL_S * 1000);
  };
  const failed = (event) => {
    clearTimeout(timer.current);
    if (attempt === RETRIES) return onError?.(event);
    timer.current = setTimeout(() => setAttempt(attempt + 1), backOffMs(attempt));
  };
  useEffect(() => {
    const image = element.current;
    // Events before hydration reached nobody.
    if (image.complete && image.currentSrc) {
      image.dispatchEvent(new Event(image.naturalWidth ? "load" : "error"));
    }
    return () => {
      clearTimeout(timer.current);
      reported.current = "";
    };
  }, []);

  const shape = shapeOf({ width, height, size, aspectRatio, style });
  // A retry does not name formats: one of them may be the reason of the failure.
  const { sources, format } = formatsOf(attempt ? [] : preferredFormats, background);
  const valid = isPictureId(mediaId);
  const of = (name) =>
    valid && addresses(base, mediaId, { size, shape, sign, operations: { background, version: finalVersion ?? version, format: name } });
  const fitting = shape.width ? `(min-width: ${shape.width}px) ${shape.width}px, 100vw` : "100vw";
  // `auto` needs a lazy image whose ratio is known.
  const chosen = size ? undefined : (sizes ?? (priority || !shape.ratio ? fitting : `auto, ${fitting}`));
  const candidates = sources.map((name) => ({ type: `image/${name}`, ...of(name) }));
  const own = of(format);
  if (priority && valid && !attempt && !finalVersion) {
    const { type, src, srcSet } = candidates[0] ?? own;
    ReactDOM.preload?.(src, { as: "image", imageSrcSet: srcSet, imageSizes: chosen, fetchPriority: "high", type });
  }

  // Everything that decides what is loaded comes before `src`: React 18 sets attributes in this order.
  const image = createElement("img", {
    ...rest,
    key: attempt,
    ref: element,
    alt: alt ?? "",
    width: shape.width,
    height: shape.height,
    loading: priority ? "eager" : "lazy",
    [FETCH_PRIORITY]: priority ? "high" : undefined,
    decoding: "async",
    style: {
      display: "block",
      maxWidth: "100%",
      height: "auto",
      ...(shape.width || size ? {} : { width: "100%" }),
      ...(shape.ratio ? { aspectRatio: shape.ratio, objectFit: "cover" } : {}),
      ...(placeholder ? { background: `center / cover no-repeat url("${placeholder}")` } : {}),
      ...style,
    },
    onLoad: loaded,
    onError: failed,
    sizes: chosen,
    srcSet: own.srcSet,
    src: own.src,
  });
  if (!candidates.length || !valid) return image;
  const before = candidates.map(({ type, src, srcSet }) =>
    createElement("source", { key: type, type, sizes: chosen, srcSet: srcSet ?? src }),
  );
  return createElement("picture", { style: { display: "contents" } }, ...before, image);
}

export function SmartImage({ base, sign, background, backgroundOption, showAnalysis, showAIData, ...props }) {
  const home = useContext(Base);
  const signer = useContext(Signer);
  const given = { ...props, base: base ?? home, sign: sign ?? signer, background: background ?? backgroundOption };
  // Another image starts anew, with its own retries and its own draft.
  const key = [given.base, given.mediaId, given.size, given.background, given.version].join(" ");
  const picture = createElement(Picture, { key, ...given });
  if (!(showAIData ?? showAnalysis)) return picture;
  return createElement(Fragment, null, picture, createElement(AIAnalysisDisplay, { base, mediaId: props.mediaId }));
}

async function describe(url, signal) {
  for (let attempt = 0; ; attempt += 1) {
    const response = await fetch(url, { signal }).catch(() => null);
    if (response?.ok) return response.json();
    // The server is unavailable, or still describes the image.
    const passing = !response || [429, 502, 503, 504].includes(response.status);
    if (!passing || attempt === RETRIES || signal.aborted) return null;
    await new Promise((resolve) => setTimeout(resolve, backOffMs(attempt)));
  }
}

const swatches = (colors) =>
  createElement(
    "span",
    { role: "img", "aria-label": colors.map(({ hex }) => hex).join(", "), style: { display: "flex", height: "1.2em" } },
    colors.map(({ hex, percent }) => createElement("i", { key: hex, title: hex, style: { background: hex, flexGrow: percent } })),
  );

/** Shows what the analysis found. The rows have their place before they are filled. */
export function AIAnalysisDisplay({
  base, mediaId, showStyle = true, showColors = true, showQuality = true, showMood = true, style, ...rest
}) {
  const home = useContext(Base);
  const url = isPictureId(mediaId) ? `${(base ?? home).replace(/\/$/, "")}/info/${mediaId}` : null;
  const [found, setFound] = useState({});
  useEffect(() => {
    if (!url) return undefined;
    const stop = new AbortController();
    describe(url, stop.signal)
      .then((info) => stop.signal.aborted || setFound({ url, info }))
      .catch(() => {});
    return () => stop.abort();
  }, [url]);
  const info = found.url === url ? found.info : undefined;
  const { style: manner, medium, quality_score: quality, mood_keywords: moods } = info?.analysis ?? {};
  const colors = info?.dominant_colors ?? [];
  const rows = [
    showStyle && ["Style", [manner, medium].filter(Boolean).join(", ")],
    showColors && ["Colors", colors.length > 0 && swatches(colors)],
    showQuality && ["Quality", quality != null && `${quality} / 100`],
    showMood && ["Mood", moods?.join(", ")],
  ].filter(Boolean);
  const oneLine = { margin: 0, minWidth: 0, overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" };
  return createElement(
    "dl",
    { ...rest, style: { display: "grid", gridTemplateColumns: "auto 1fr", gap: ".3em 1em", lineHeight: 1.5, ...style } },
    rows.map(([name, value]) =>
      createElement(
        Fragment,
        { key: name },
        createElement("dt", null, name),
        createElement("dd", { style: oneLine }, value || (info === undefined ? "\u00a0" : "–")),
      ),
    ),
  );
}
