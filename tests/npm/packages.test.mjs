// The modules inside the packages that they are made for, as npm installs those.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createImage } from "@nuxt/image/runtime";
import { Image as UnpicImage } from "@unpic/react/base";
import next from "next/image.js";
import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { smartserveLoader } from "smartserve-image/next";
import nuxtProvider from "smartserve-image/nuxt";
import { SmartImage } from "smartserve-image/react";
import { transform } from "smartserve-image/unpic";

const BASE = "https://img.example.org";

test("next/image asks for rungs of the ladder alone", () => {
  const { props } = next.getImageProps({
    src: "7", alt: "A harbour", width: 1200, height: 800, sizes: "100vw", loader: smartserveLoader(BASE),
  });
  const widths = props.srcSet.split(", ").map((one) => /^https:\/\/img.example.org\/serve\/7\?w=(\d+) (\d+)w$/.exec(one));
  assert.ok(widths.length >= 8);
  for (const [, asked, told] of widths) assert.equal(asked, told);
});

test("next/image renders with the loader", () => {
  const html = renderToStaticMarkup(
    createElement(next.default ?? next, { src: `${BASE}/serve/7?v=ab`, alt: "", width: 640, height: 480, loader: smartserveLoader(BASE) }),
  );
  assert.match(html, /serve\/7\?w=640&amp;v=ab/);
});

test("React renders the component with a picture in its place, on the server", () => {
  const html = renderToStaticMarkup(
    createElement(SmartImage, {
      base: BASE, mediaId: 7, width: 1200, height: 800, alt: "A harbour", preferredFormats: ["avif", "webp"], priority: true,
    }),
  );
  assert.match(html, /^<smart-image base="https:\/\/img.example.org" media-id="7" alt="A harbour"/);
  assert.match(html, /preferred-formats="avif webp"/);
  assert.match(html, /priority=""/);
  assert.match(html, /aspect-ratio:1200 \/ 800/);
  assert.match(html, /<img [^>]*srcSet="[^"]*serve\/7\?w=1200 1200w"/i);
  assert.doesNotMatch(html, /show-analysis|undefined/);
});

test("Nuxt Image gives addresses and sizes by the provider", () => {
  const image = createImage({
    providers: { smartserve: { setup: nuxtProvider, defaults: { baseURL: BASE } } },
    provider: "smartserve", presets: {}, screens: { sm: 640, lg: 1024 }, alias: {}, domains: [],
    densities: [1, 2], format: [],
  });
  assert.equal(image("7", { width: 600, format: "webp" }), `${BASE}/serve/7?w=640&format=webp`);
  assert.equal(image("/serve/7?v=ab", { size: "grid" }), `${BASE}/serve/7?size=grid&v=ab`);
  const { srcset } = image.getSizes("7", { sizes: "sm:100vw lg:50vw", modifiers: {} });
  assert.match(srcset, /serve\/7\?w=/);
});

test("unpic's component asks by the transformer", () => {
  const html = renderToStaticMarkup(
    createElement(UnpicImage, { src: `${BASE}/serve/7`, transformer: transform, width: 800, height: 533, alt: "" }),
  );
  assert.match(html, /srcSet="https:\/\/img.example.org\/serve\/7\?w=\d+/i);
  assert.doesNotMatch(html, /quality|height=\d+&/);
});
