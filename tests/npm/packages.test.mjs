// The modules inside the packages that they are made for, as npm installs those.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Image as UnpicImage } from "@unpic/react/base";
import next from "next/image.js";
import { createElement } from "react";
import { renderToStaticMarkup } from "react-dom/server";
import { smartserveLoader } from "smartserve-image/next";
import { AIAnalysisDisplay, SmartImage, SmartserveProvider } from "smartserve-image/react";
import { transform } from "smartserve-image/unpic";
import { useImageAnalyzer } from "smartserve-image/vue";
import { effectScope, shallowReactive } from "vue";

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

const render = (props) => renderToStaticMarkup(createElement(SmartImage, { base: BASE, mediaId: 7, ...props }));

test("formats become sources, up to the first that all browsers display", () => {
  const types = (html) => [...html.matchAll(/type="image\/(\w+)"/g)].map(([, type]) => type);
  const last = (html) => /<img [^>]*src="[^"]*?(?:format=(\w+))?"/.exec(html)[1];
  for (const [preferredFormats, background, sources, format] of [
    [undefined, undefined, [], undefined],
    [["avif", "webp", "jpeg", "png"], undefined, ["avif", "webp"], "jpeg"],
    ["webp avif", undefined, ["webp", "avif"], undefined],
    [["jpg", "avif"], undefined, [], "jpeg"],
    [["png"], undefined, [], "png"],
    [["gif", "avif"], undefined, ["avif"], undefined],
  ]) {
    const html = render({ preferredFormats, background });
    assert.deepEqual(types(html), sources);
    assert.equal(last(html), format);
  }
});

test("a removed background is never requested as JPEG", () => {
  const html = render({ preferredFormats: ["avif", "jpeg", "png"], backgroundOption: "removed" });
  assert.doesNotMatch(html, /format=jpeg/);
  assert.match(html, /src="[^"]*format=png&amp;bg=removed"/);
});

test("an image without known width is as wide as its container, and no larger than its size", () => {
  assert.match(render({}), /;width:100%/);
  assert.match(render({ aspectRatio: 1.5 }), /aspect-ratio:1.5.* sizes="auto, 100vw"/);
  assert.doesNotMatch(render({ size: "detail" }), /[;"]width:100%|dpr=2|sizes=/);
  assert.match(render({ size: "detail", width: 600, height: 400 }), /dpr=2 2x/);
});

test("further properties are those of the <img>", () => {
  const html = render({ className: "round", id: "me", "data-x": "1", showAIData: false });
  assert.match(html, /^<img [^>]*class="round"/);
  assert.match(html, /id="me"/);
  assert.match(html, /data-x="1"/);
  assert.doesNotMatch(html, /<dl|undefined/);
});

const signedAs = (name) => ({ url, covers }) => `${url}#${name} ${covers.split("&", 1)}`;
const addressesOf = (html) =>
  [...html.matchAll(/ (?:src|srcSet|imageSrcSet)="([^"]+)"/g)].flatMap(([, text]) => text.split(", "));

for (const [where, provider, own, name] of [
  ["an image", undefined, "own", "own"],
  ["its provider", "provided", undefined, "provided"],
  ["an image inside a provider with another one", "provided", "own", "own"],
]) {
  test(`the signer of ${where} gets every address`, () => {
    const sign = own && signedAs(own);
    const images = [
      { mediaId: 7, width: 600, height: 400, preferredFormats: ["avif", "webp"], priority: true },
      { mediaId: 8, size: "thumbnail" },
    ].map((props) => createElement(SmartImage, { key: props.mediaId, sign, ...props }));
    const html = renderToStaticMarkup(
      createElement(SmartserveProvider, { base: BASE, sign: provider && signedAs(provider) }, images),
    );
    const addresses = addressesOf(html);
    // Two sources and an `img` with several widths, a preload, and a named size with its `2x`.
    assert.ok(addresses.length > 30);
    for (const one of addresses) assert.match(one, new RegExp(`^${BASE}/serve/[78]\\?\\S+#${name} (w=\\d+|size=thumbnail)`));
  });
}

test("without a signer no address is signed", () => {
  const html = renderToStaticMarkup(
    createElement(SmartserveProvider, { base: BASE }, createElement(SmartImage, { mediaId: 7, width: 600 })),
  );
  assert.doesNotMatch(html, /#|sig=/);
});

test("rows of the analysis are chosen one by one", () => {
  const html = renderToStaticMarkup(createElement(AIAnalysisDisplay, { base: BASE, mediaId: 7, showMood: false, showStyle: false }));
  assert.match(html, /Colors.*Quality/);
  assert.doesNotMatch(html, /Mood|Style/);
});

test("unpic's component asks by the transformer", () => {
  const html = renderToStaticMarkup(
    createElement(UnpicImage, { src: `${BASE}/serve/7`, transformer: transform, width: 800, height: 533, alt: "" }),
  );
  assert.match(html, /srcSet="https:\/\/img.example.org\/serve\/7\?w=\d+/i);
  assert.doesNotMatch(html, /quality|height=\d+&/);
});

test("the signers of next/image and unpic get every address", () => {
  const sign = signedAs("signed");
  const image = { src: `${BASE}/serve/7`, width: 800, height: 533, alt: "" };
  const loader = smartserveLoader(BASE, { sign });
  const transformer = (src, operations) => transform(src, operations, { sign });
  for (const element of [
    createElement(next.default ?? next, { ...image, loader }),
    createElement(UnpicImage, { ...image, transformer }),
  ]) {
    const addresses = addressesOf(renderToStaticMarkup(element));
    assert.ok(addresses.length > 1);
    for (const one of addresses) assert.match(one, /#signed w=\d+/);
  }
});

test("the composable of Vue sends each image with the options of that time", async (context) => {
  const sent = [];
  context.mock.method(globalThis, "fetch", async (url, { headers }) => {
    sent.push([String(url).replace(/\/api\/.*/, ""), headers.Authorization]);
    return Response.json({});
  });
  // As a component gets its props.
  const props = shallowReactive({ base: "https://a.example", token: undefined });
  const scope = effectScope();
  const { analyzeImage } = scope.run(() => useImageAnalyzer(props));
  await analyzeImage(new File(["x"], "x.png"));
  Object.assign(props, { base: "https://b.example", token: "secret" });
  await analyzeImage(new File(["x"], "x.png"));
  scope.stop();
  assert.deepEqual(sent, [["https://a.example", undefined], ["https://b.example", "Bearer secret"]]);
});
