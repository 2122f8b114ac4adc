// <SmartImage>: the web component in React, on the server too; there, and until the component has
// come, its place is held and a plain picture stands in it.

import { createElement, useEffect, useRef } from "react";
import { pictureSrcset, pictureUrl } from "./urls.js";

const loading = new Map();

function load(base) {
  if (!loading.has(base)) {
    const url = `${base.replace(/\/$/, "")}/static/smart-image.js`;
    // Bundlers leave it alone: it comes from the server, as new as its answers.
    loading.set(base, import(/* webpackIgnore: true */ /* @vite-ignore */ url));
  }
  return loading.get(base);
}

function attributes({ base, mediaId, size, alt, background, preferredFormats, priority, width, height }) {
  return {
    base,
    "media-id": String(mediaId),
    size,
    alt,
    background,
    "preferred-formats": Array.isArray(preferredFormats) ? preferredFormats.join(" ") : preferredFormats,
    priority: priority ? "" : undefined,
    width,
    height,
  };
}

// Lazy in any case: a picture that is not shown is then not fetched, beside that of the component.
function fallback({ base, mediaId, size, alt, background, width, height }) {
  const operations = { size, background };
  return createElement("img", {
    src: pictureUrl(base, mediaId, operations),
    srcSet: width && !size ? pictureSrcset(base, mediaId, Number(width), operations) : undefined,
    sizes: width && !size ? `(min-width: ${width}px) ${width}px, 100vw` : undefined,
    alt: alt ?? "",
    width,
    height,
    loading: "lazy",
    decoding: "async",
  });
}

export function SmartImage(props) {
  const { base, width, height, showAnalysis, onLoad, onFinal, onError, style, className } = props;
  const element = useRef(null);
  useEffect(() => {
    load(base).catch((error) => onError?.(error));
  }, [base]);
  useEffect(() => {
    const here = element.current;
    const heard = Object.entries({ load: onLoad, final: onFinal, error: onError });
    const listening = heard.filter(([, listener]) => listener);
    for (const [name, listener] of listening) here.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of listening) here.removeEventListener(name, listener);
    };
  }, [onLoad, onFinal, onError]);
  const shape = width && height ? { aspectRatio: `${width} / ${height}` } : {};
  return createElement(
    "smart-image",
    {
      ref: element,
      ...attributes(props),
      "show-analysis": showAnalysis ? "" : undefined,
      class: className,
      style: { display: "block", ...shape, ...style },
    },
    fallback(props),
  );
}
