// Renders any component of the analyzer into a page, as a test asks for it.

import { StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";
import * as analyzer from "smartserve-image/analyzer";

const root = createRoot(document.getElementById("root"));
window.calls = [];

// Properties whose name begins with "on" are replaced by functions that record their arguments.
window.show = (name, props = {}) => {
  const given = Object.entries(props).map(([key, value]) => [
    key,
    key.startsWith("on") ? (...all) => void window.calls.push([key, ...all.map((one) => one?.name ?? one)]) : value,
  ]);
  const Component = analyzer[name];
  root.render(<StrictMode><Component {...Object.fromEntries(given)} /></StrictMode>);
};

function Hook() {
  const { analyzeImage, isAnalyzing, result, error } = analyzer.useImageAnalyzer();
  // In an effect: StrictMode ends the effects of the hook once before it is used.
  useEffect(() => {
    window.analyzeImage = (name) =>
      analyzeImage(new File(["x"], name, { type: "image/png" })).then(
        (found) => found.filename,
        (fault) => `${fault.name}: ${fault.message}`,
      );
  });
  return <output>{JSON.stringify({ isAnalyzing, result: result?.filename ?? null, error })}</output>;
}
window.showHook = () => root.render(<StrictMode><Hook /></StrictMode>);
