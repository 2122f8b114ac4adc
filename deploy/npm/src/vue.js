// The composable of the analyzer for Vue 3.

import { onScopeDispose, ref, shallowRef } from "vue";
import { analyze } from "./upload.js";

export { AnalysisError } from "./upload.js";

/**
 * Analyzes one image at a time. On failure, `error` is set and the error is thrown again.
 * `options` are read for each image: they may be the props of a component, which change.
 */
export function useImageAnalyzer(options = {}) {
  const isAnalyzing = ref(false);
  const result = shallowRef(null);
  const error = ref(null);
  let running = null;

  const cancel = (reason) => running?.abort(new DOMException(reason, "AbortError"));
  const analyzeImage = async (file) => {
    cancel("Another image was selected.");
    const { base = "", token } = options;
    const controller = new AbortController();
    running = controller;
    isAnalyzing.value = true;
    error.value = null;
    try {
      const found = await analyze(file, { base, token, signal: controller.signal });
      controller.signal.throwIfAborted();
      result.value = found;
      return found;
    } catch (fault) {
      if (!controller.signal.aborted) error.value = fault.message;
      throw fault;
    } finally {
      if (running === controller) isAnalyzing.value = false;
    }
  };
  const clear = () => {
    cancel("The analysis was cleared.");
    running = null;
    isAnalyzing.value = false;
    result.value = null;
    error.value = null;
  };
  onScopeDispose(() => cancel("The component was removed."), true);
  return { analyzeImage, isAnalyzing, result, error, clear };
}
