// Addresses of pictures, without any package.

import assert from "node:assert/strict";
import { test } from "node:test";
import { WIDTHS, isPictureId, parsePicture, pictureSrcset, pictureUrl, snap } from "../../deploy/npm/src/urls.js";
import { extract, generate, transform } from "../../deploy/npm/src/unpic.js";
import { smartserveLoader } from "../../deploy/npm/src/next.js";
import { signedProvider } from "../../deploy/npm/src/nuxt.js";
import { createSigner, signUrl } from "../../deploy/npm/src/node.js";

const BASE = "https://img.example.org";

test("widths snap up to the ladder, whose top is for all beyond", () => {
  assert.equal(snap(1), 16);
  assert.equal(snap(640), 640);
  assert.equal(snap(641), 750);
  assert.equal(snap(9999), 3840);
});

test("an address names what is wished for and nothing else", () => {
  assert.equal(pictureUrl(BASE, 7), `${BASE}/serve/7`);
  assert.equal(pictureUrl(`${BASE}/`, "7", { width: 600, size: "grid" }), `${BASE}/serve/7?w=640`);
  assert.equal(
    pictureUrl("", 7, { size: "grid", dpr: 2, format: "jpg", background: "removed", version: "ab" }),
    "/serve/7?size=grid&dpr=2&format=jpeg&bg=removed&v=ab",
  );
  assert.equal(pictureUrl("", 7, { format: "bmp", dpr: 1, background: "blue" }), "/serve/7");
  // An editor may have made `removed` the default of the image.
  assert.equal(pictureUrl("", 7, { background: "original" }), "/serve/7?bg=original");
});

test("what was put together is taken apart again", () => {
  const operations = { width: 640, format: "avif", background: "removed", version: "ab", dpr: 2 };
  assert.deepEqual(parsePicture(pictureUrl(BASE, 7, operations)), { base: BASE, id: "7", operations });
});

for (const [source, base, id, operations] of [
  [7, "", "7", {}],
  ["7", "", "7", {}],
  ["/7", "", "7", {}],
  ["/serve/7.webp?size=grid", "", "7", { size: "grid", format: "webp" }],
  [`${BASE}/api/images/789?size=detail#x`, BASE, "789", { size: "detail" }],
  [`${BASE}/media/serve/7`, `${BASE}/media`, "7", {}],
  [new URL(`${BASE}/serve/7?w=640`), BASE, "7", { width: 640 }],
]) {
  test(`${source} is a picture`, () => {
    assert.deepEqual(parsePicture(source), { base, id, operations });
  });
}

for (const source of ["", "x", "/photo.jpg", "01", "/serve/01", "-1", "1.5", undefined, null, `${BASE}/7`, `${BASE}/other/7`, "7/8", "1".repeat(20)]) {
  test(`${source} is no picture`, () => assert.equal(parsePicture(source), null));
}

test("an id is a number as the server writes it", () => {
  for (const id of [0, 7, "7", "1".repeat(19)]) assert.ok(isPictureId(id));
  for (const id of [undefined, null, NaN, "undefined", "", "01", -1, 1.5, "7/8", {}]) assert.ok(!isPictureId(id));
});

test("a srcset goes up to the width of the picture", () => {
  const candidates = pictureSrcset(BASE, 7, 300).split(", ").map((one) => one.split(" ")[1]);
  assert.deepEqual(candidates, ["64w", "96w", "128w", "256w", "300w"]);
  assert.equal(pictureSrcset(BASE, 7, 9999).split(", ").length, WIDTHS.filter((one) => one >= 64).length);
});

test("the loader keeps what an address says, but for the width", () => {
  const loader = smartserveLoader(BASE);
  assert.equal(loader({ src: "7", width: 640, quality: 75 }), `${BASE}/serve/7?w=640`);
  assert.equal(
    loader({ src: "https://other.example/serve/7?w=16&format=webp&v=ab", width: 828 }),
    "https://other.example/serve/7?w=828&format=webp&v=ab",
  );
  assert.equal(loader({ src: "/photo.jpg", width: 640 }), "/photo.jpg");
});

test("a transformer takes apart, puts together and changes", () => {
  const url = `${BASE}/serve/7?w=640&format=webp&v=ab`;
  const found = extract(url);
  assert.deepEqual(found, { src: `${BASE}/serve/7?v=ab`, operations: { width: 640, format: "webp" } });
  assert.equal(generate(found.src, found.operations), url);
  assert.equal(transform(url, { width: 1200, height: 800, quality: 50 }), `${BASE}/serve/7?w=1200&format=webp&v=ab`);
  assert.equal(extract("https://elsewhere.example/a.jpg"), null);
  assert.equal(transform("https://elsewhere.example/a.jpg", { width: 10 }), "https://elsewhere.example/a.jpg");
});

test("a signer gets each address with the text that its signature covers", () => {
  const seen = [];
  const sign = (variant) => seen.push(variant) && `${variant.url}#signed`;
  const url = `${BASE}/serve/7?w=640`;
  assert.equal(pictureUrl(BASE, 7, { width: 640 }, sign), `${url}#signed`);
  assert.deepEqual(seen, [{ id: "7", covers: "w=640&format=auto&bg=auto", url }]);
  assert.equal(pictureSrcset(BASE, 7, 128, {}, sign).match(/#signed /g).length, 3);
  assert.equal(smartserveLoader(BASE, { sign })({ src: "7", width: 640 }), `${url}#signed`);
  assert.equal(transform(url, { width: 640 }, { sign }), `${url}#signed`);
  const { getImage } = signedProvider(sign)();
  assert.deepEqual(getImage("7", { modifiers: { width: 640 }, baseURL: BASE }), { url: `${url}#signed` });
});

test("a signature is replaced, and equal requests get equal addresses", () => {
  const options = { key: "k".repeat(32), keyId: "a", now: 1_000_000, ttl: 600 };
  const once = signUrl(`${BASE}/serve/7?w=64#x`, options);
  assert.match(once, /\/serve\/7\?w=64&exp=1000500&kid=a&sig=[\w-]{43}$/);
  assert.equal(signUrl(once, { ...options, now: 1_000_100 }), once);
});

for (const options of [{}, { key: "short", keyId: "a" }, { key: "k".repeat(32) }, { key: "k".repeat(32), keyId: "a b" }]) {
  test(`${JSON.stringify(options)} cannot sign`, () => {
    assert.throws(() => createSigner(options)({ url: "/serve/7", id: "7", covers: "" }), TypeError);
  });
}
