// <SmartImage>: the web component in React. During server-side rendering, and until the component is
// loaded, an <img> is rendered in the same space.

import { createElement, useEffect, useRef } from "react";
import { pictureSrcset, pictureUrl } from "./urls.js";

const loading = new Map();

function load(base) {
  if (!loading.has(base)) {
    const url = `${base.replace(/\/$/, "")}/static/smart-image.js`;
    // Bundlers must not include it: the server provides the matching version.
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

// Always lazy, so that the hidden <img> is not fetched in addition to the component's image.
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
    const node = element.current;
    const listeners = Object.entries({ load: onLoad, final: onFinal, error: onError });
    const given = listeners.filter(([, listener]) => listener);
    for (const [name, listener] of given) node.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of given) node.removeEventListener(name, listener);
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
