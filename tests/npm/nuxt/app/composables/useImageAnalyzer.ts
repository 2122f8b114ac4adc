import { ref } from 'vue';

export function useImageAnalyzer() {
  const isAnalyzing = ref(false);
  const result = ref(null);
  const error = ref<string | null>(null);

  const analyzeImage = async (file: File) => {
    isAnalyzing.value = true;
    error.value = null;

    try {
      const formData = new FormData();
      formData.append('image', file);

      const response = await fetch('/api/standalone-metadata/analyze', {
        method: 'POST',
        body: formData,
      });

      if (!response.ok) {
        throw new Error(`Analysis failed: ${response.statusText}`);
      }

      const analysisResult = await response.json();
      result.value = analysisResult;
      return analysisResult;
    } catch (err) {
      error.value = err instanceof Error ? err.message : 'Analysis failed';
      throw err;
    } finally {
      isAnalyzing.value = false;
    }
  };

  return { analyzeImage, isAnalyzing, result, error };
}
