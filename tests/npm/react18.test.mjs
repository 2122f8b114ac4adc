// The component in React 18: bundled with it, because its name belongs to another version here.

import assert from "node:assert/strict";
import { test } from "node:test";
import { build } from "esbuild";

test("React 18 renders the component without a warning", async () => {
  const { outputFiles } = await build({
    stdin: {
      contents: `
        export { createElement, version } from "react";
        export { renderToString } from "react-dom/server";
        export { SmartImage } from "smartserve-image/react";`,
      resolveDir: import.meta.dirname,
    },
    alias: { react: "react-18", "react-dom": "react-dom-18" },
    bundle: true, platform: "node", format: "cjs", write: false, logLevel: "error",
  });
  const module = { exports: {} };
  new Function("module", "exports", "require", outputFiles[0].text)(
    module, module.exports, (await import("node:module")).createRequire(import.meta.url),
  );
  const { SmartImage, createElement, renderToString, version } = module.exports;
  assert.match(version, /^18\./);
  const warnings = [];
  console.error = (...all) => warnings.push(all.join(" "));
  const html = renderToString(
    createElement(SmartImage, { base: "https://img.example.org", mediaId: 7, width: 600, height: 400, priority: true, preferredFormats: ["avif"] }),
  );
  assert.deepEqual(warnings, []);
  assert.match(html, /fetchpriority="high"/);
  // Its attributes are set in this order, so that nothing is loaded before the choice is known.
  assert.match(html, /loading=.*sizes=.*srcSet=.*src=/i);
});
