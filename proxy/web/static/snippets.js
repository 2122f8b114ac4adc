// Code snippets that embed an image in a page.

import { byId, chosen, segments } from "./dom.js";

const KINDS = [
  ["img", "img"],
  ["picture", "picture"],
  ["component", "smart-image"],
  ["react", "React"],
  ["next", "Next.js"],
  ["css", "CSS"],
];

let current;

const absolute = (text) => text.replaceAll("/serve/", `${location.origin}/serve/`);
const candidates = (text, indent) => absolute(text).replaceAll(", ", `,\n${indent}`);
const quoted = (text) => (text ?? "").replaceAll("&", "&amp;").replaceAll('"', "&quot;");
const lastUrl = (text) => text.split(", ").at(-1).split(" ")[0];

function attributes(image) {
  return `width="${image.width}" height="${image.height}" alt="${quoted(image.alt)}"`;
}

const TEMPLATES = {
  img: (one) => `<img
  src="${absolute(lastUrl(one.srcset.auto))}"
  srcset="${candidates(one.srcset.auto, "          ")}"
  sizes="${one.sizes}"
  ${attributes(one)}
  loading="lazy" decoding="async">`,

  picture: (one) => {
    const formats = Object.keys(one.srcset).filter((format) => format !== "auto");
    const fallback = formats.pop() ?? "auto";
    const sources = formats.map(
      (format) => `  <source type="image/${format}" sizes="${one.sizes}"
    srcset="${candidates(one.srcset[format], "            ")}">`,
    );
    return `<picture>
${sources.join("\n")}
  <img src="${absolute(lastUrl(one.srcset[fallback]))}"
    ${attributes(one)} loading="lazy" decoding="async">
</picture>`;
  },

  component: (one) => `<script type="module" src="${location.origin}/static/smart-image.js"></script>

<smart-image media-id="${one.id}" alt="${quoted(one.alt)}"
  style="display: block; aspect-ratio: ${one.width}/${one.height}"></smart-image>`,

  react: (one) => `import { SmartImage } from "smartserve-image/react";

<SmartImage base="${location.origin}" mediaId={${one.id}} alt=${JSON.stringify(one.alt ?? "")} />`,

  next: (one) => `// next.config.mjs
export default {
  images: { loader: "custom", loaderFile: "./smartserve-loader.js" },
};

// smartserve-loader.js
"use client";
import { smartserveLoader } from "smartserve-image/next";
export default smartserveLoader("${location.origin}");

// in the component
import Image from "next/image";

<Image src="${one.id}" width={${one.width}} height={${one.height}} alt=${JSON.stringify(one.alt ?? "")} sizes="100vw" />`,

  css: (one) => {
    const formats = Object.keys(one.srcset).filter((format) => format !== "auto");
    const url = `${location.origin}/serve/${one.id}?size=detail`;
    const set = formats.map(
      (format) => `    url("${url}&format=${format}&v=${one.version}") type("image/${format}")`,
    );
    const colour = one.dominant_colors[0]?.hex ?? "transparent";
    return `.hero {
  background: ${colour} center / cover;
  background-image: image-set(
${set.join(",\n")}
  );
}`;
  },
};

function update() {
  const kind = chosen(byId("snippet-kind")) ?? "img";
  if (current) byId("snippet").textContent = TEMPLATES[kind](current);
}

export function show(image) {
  current = image;
  update();
}

export function clear() {
  current = null;
  byId("snippet").textContent = "";
}

export function start() {
  segments(byId("snippet-kind"), "snippet-kind", KINDS, "img");
  byId("snippet-kind").onchange = update;
}
