'use client';
import { ImageAnalyzer } from '@/components/ImageAnalyzer';

export default function AnalyzerPage() {
  return <ImageAnalyzer />;
}
