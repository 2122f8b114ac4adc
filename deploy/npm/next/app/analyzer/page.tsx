// app/analyzer/page.tsx: a page that analyzes images.

import { ImageAnalyzer } from "smartserve-image/analyzer";

export default function AnalyzerPage() {
  return (
    <main>
      <ImageAnalyzer />
    </main>
  );
}
