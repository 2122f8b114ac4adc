// Code snippets that embed an image in a page.

import { byId, chosen as chosenOf, segments } from "./dom.js";
import { imageUrl } from "./requests.js";

const KINDS = [
  ["img", "img"],
  ["picture", "picture"],
  ["component", "smart-image"],
  ["react", "React"],
  ["next", "Next.js"],
  ["css", "CSS"],
];

const DENSITIES = ["1", "1.5", "2", "3"];
const NOTES = {
  component: "The component selects width and density by itself.",
  react: "The component selects width and density by itself.",
  next: "Next.js requests the densities of screens by itself.",
};

// The description of the image, and the chosen parameters.
let shown = null;

const absolute = (path) => location.origin + path;
// Return a text for an attribute of HTML. Braces are markup in templates of Angular, Svelte and servers.
const ENTITIES = { "&": "&amp;", '"': "&quot;", "<": "&lt;", "{": "&#123;", "}": "&#125;" };
const quoted = (text) => (text ?? "").replace(/[&"<{}]/g, (one) => ENTITIES[one]);
// Return an attribute of JSX. Its string literals have no escapes, so the text is that of an expression.
const jsxAlt = (text) => `alt={${JSON.stringify(text ?? "")}}`;
const attributes = (set, alt) => `width="${set.width}" height="${set.height}" alt="${quoted(alt)}"`;
const isRemoved = ({ chosen }) => chosen.bg === "removed";

function imageAddress({ info, chosen }, changes = {}) {
  return absolute(imageUrl(info.id, { ...chosen, ...changes, v: info.version }));
}

// Pairs of `w` and the width in pixels that it gives.
const steps = ({ srcset }) => srcset.auto.split(", ").map((one) => /w=(\d+).* (\d+)w$/.exec(one).slice(1).map(Number));

// Return the dimensions in CSS pixels, and whether the whole image is shown.
function shapeOf({ info, chosen }) {
  if (chosen.w) {
    const [, width] = steps(info).find(([w]) => w === Number(chosen.w));
    return { width, height: Math.round(width / info.ratio), whole: true };
  }
  const { width, height } = info.dimensions[chosen.size];
  // Of a narrow image one pixel changes the ratio a lot, so heights are compared.
  return { width, height, whole: Math.abs(width / info.ratio - height) <= 1 };
}

// Return the address of what the inspector shows, and those of its smaller versions: other widths,
// or of a cropped size, whose shape no width has, other densities.
function sourceSet(one, format = one.chosen.format) {
  const { info, chosen } = one;
  const { width, height, whole } = shapeOf(one);
  const src = imageAddress(one, { format });
  if (!whole) {
    const densities = DENSITIES.filter((dpr) => Number(dpr) <= Number(chosen.dpr));
    const srcset = densities.map((dpr) => `${imageAddress(one, { format, dpr })} ${dpr}x`);
    return { src, srcset: srcset.length > 1 ? srcset : [], width, height };
  }
  const available = steps(info);
  const wanted = width * Number(chosen.dpr);
  // A custom width is rounded up to the next step; a named size is exact.
  const [, widest] = (chosen.w && available.find(([w]) => w >= chosen.w * chosen.dpr)) || [0, Math.min(info.width, Math.round(wanted))];
  const smaller = available.filter(([, pixels]) => pixels < widest);
  return {
    src,
    srcset: [
      ...smaller.map(([w, pixels]) => `${imageAddress(one, { format, w, dpr: "1" })} ${pixels}w`),
      `${src} ${widest}w`,
    ],
    sizes: `auto, (min-width: ${width}px) ${width}px, 100vw`,
    width,
    height,
  };
}

function srcsetLines({ srcset, sizes }, indent) {
  if (!srcset.length) return "";
  const lines = `\n${indent}srcset="${srcset.join(`,\n${indent}        `)}"`;
  return sizes ? `${lines}\n${indent}sizes="${sizes}"` : lines;
}

// The formats of <source> elements: those before the fallback, or the chosen one.
function newerFormats({ info, chosen }) {
  const newer = info.formats.served.filter((one) => one === "avif" || one === "webp");
  return chosen.format === "auto" ? newer : newer.filter((one) => one === chosen.format);
}

function fallbackFormat(one) {
  const { info, chosen } = one;
  if (!["auto", "avif", "webp"].includes(chosen.format)) return chosen.format;
  // Without a format a browser that accepts no newer one receives the GIF.
  if (info.animated) return "auto";
  return info.transparent || isRemoved(one) ? "png" : "jpeg";
}

const TEMPLATES = {
  img: (one) => {
    const set = sourceSet(one);
    return `<img
  src="${set.src}"${srcsetLines(set, "  ")}
  ${attributes(set, one.info.alt)}
  loading="lazy" decoding="async">`;
  },

  picture: (one) => {
    const sources = newerFormats(one).map((format) => {
      const set = sourceSet(one, format);
      const single = `\n    srcset="${set.src}"`;
      return `  <source type="image/${format}"${srcsetLines(set, "    ") || single}>`;
    });
    const set = sourceSet(one, fallbackFormat(one));
    return `<picture>
${[...sources, `  <img src="${set.src}"${srcsetLines(set, "    ")}`].join("\n")}
    ${attributes(set, one.info.alt)} loading="lazy" decoding="async">
</picture>`;
  },

  component: (one) => {
    const { info, chosen } = one;
    const { width, height } = shapeOf(one);
    const options = [
      chosen.w ? "" : ` size="${chosen.size}"`,
      isRemoved(one) ? ' background="removed"' : "",
      chosen.format === "auto" ? "" : ` preferred-formats="${chosen.format}"`,
    ].join("");
    return `<script type="module" src="${location.origin}/static/smart-image.js"></script>

<smart-image media-id="${info.id}"${options} alt="${quoted(info.alt)}"
  width="${width}" height="${height}"
  style="display: block; max-width: ${width}px; aspect-ratio: ${width}/${height}"></smart-image>`;
  },

  react: (one) => {
    const { info, chosen } = one;
    const { width, height } = shapeOf(one);
    const options = [
      chosen.w ? "" : ` size="${chosen.size}"`,
      isRemoved(one) ? ' background="removed"' : "",
      chosen.format === "auto" ? "" : ` preferredFormats="${chosen.format}"`,
    ].join("");
    return `import { SmartImage } from "smartserve-image/react";

<SmartImage base="${location.origin}" mediaId={${info.id}}${options}
  width={${width}} height={${height}} ${jsxAlt(info.alt)} />`;
  },

  next: (one) => {
    const { info, chosen } = one;
    const { width, height, whole } = shapeOf(one);
    const dimensions = `width={${width}} height={${height}}`;
    const alt = jsxAlt(info.alt);
    // The loader sets a width, which would replace a cropped size.
    if (!whole) {
      return `import Image from "next/image";

<Image unoptimized src="${imageAddress(one)}" ${dimensions} ${alt} />`;
    }
    const { pathname, search } = new URL(imageAddress(one, { size: null, w: null, dpr: "1" }));
    return `// next.config.mjs
export default {
  images: { loader: "custom", loaderFile: "./smartserve-loader.js" },
};

// smartserve-loader.js
"use client";
import { smartserveLoader } from "smartserve-image/next";
export default smartserveLoader("${location.origin}");

// in the component
import Image from "next/image";

<Image src="${pathname}${search}" ${dimensions} ${alt}
  sizes="(min-width: ${width}px) ${width}px, 100vw" />`;
  },

  css: (one) => {
    const { info, chosen } = one;
    const last = fallbackFormat(one);
    const formats = [...new Set([...newerFormats(one), last])];
    const densities = DENSITIES.filter((dpr) => Number(dpr) <= Number(chosen.dpr));
    const set = formats.flatMap((format) =>
      densities.map((dpr) => {
        const type = format === "auto" ? "" : ` type("image/${format}")`;
        return `    url("${imageAddress(one, { format, dpr })}") ${dpr}x${type}`;
      }),
    );
    const ground = info.transparent || isRemoved(one) ? "transparent" : (info.dominant_colors[0]?.hex ?? "transparent");
    return `.hero {
  background: ${ground} url("${imageAddress(one, { format: last })}") center / cover;
  background-image: image-set(
${set.join(",\n")}
  );
}`;
  },
};

function update() {
  const kind = chosenOf(byId("snippet-kind")) ?? "img";
  byId("snippet").textContent = shown ? TEMPLATES[kind](shown) : "";
  byId("snippet-note").textContent = NOTES[kind] ?? "";
}

// Show snippets for an image with the parameters that were chosen for it.
export function show(info, chosen) {
  shown = { info, chosen };
  update();
}

export function clear() {
  shown = null;
  update();
}

export function start() {
  segments(byId("snippet-kind"), "snippet-kind", KINDS, "img");
  byId("snippet-kind").onchange = update;
}
