// app/analyzer/page.tsx: a page that analyzes images.

import { ImageAnalyzer } from "smartserve-image/analyzer";

export default function AnalyzerPage() {
  return (
    <main>
      {/* By the rewrites of this application, because the server sends no CORS headers. */}
      <ImageAnalyzer base="" />
    </main>
  );
}
