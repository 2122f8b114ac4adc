import { useImageAnalyzer } from '@/hooks/useImageAnalyzer';
import { DropzoneUpload } from '@/METDATAANALYZER/frontend/components/DropzoneUpload';
import { MetadataDisplay } from '@/METDATAANALYZER/frontend/components/MetadataDisplay';

export function ImageAnalyzer() {
  const { analyzeImage, isAnalyzing, result, error } = useImageAnalyzer();

  const handleFileSelect = async (file: File) => {
    try {
      await analyzeImage(file);
    } catch (error) {
      console.error('Analysis failed:', error);
    }
  };

  return (
    <div className="max-w-4xl mx-auto p-6">
      <h1 className="text-3xl font-bold mb-6">AI Image Analyzer</h1>
      
      <DropzoneUpload 
        onFileSelect={handleFileSelect}
        isAnalyzing={isAnalyzing}
      />
      
      {error && (
        <div className="mt-4 p-4 bg-red-50 border border-red-200 rounded-md">
          <p className="text-red-800">{error}</p>
        </div>
      )}
      
      {result && (
        <div className="mt-6">
          <MetadataDisplay
            data={result}
            filename={result.filename}
            filesize={result.filesize}
          />
        </div>
      )}
    </div>
  );
}
