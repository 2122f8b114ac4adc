import { NextRequest, NextResponse } from 'next/server';
import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';
import { writeFile, unlink } from 'fs/promises';
import path from 'path';

export async function POST(request: NextRequest) {
  try {
    const formData = await request.formData();
    const file = formData.get('image') as File;

    if (!file) {
      return NextResponse.json({ error: 'No file uploaded' }, { status: 400 });
    }

    // Save file temporarily
    const bytes = await file.arrayBuffer();
    const buffer = Buffer.from(bytes);
    const tempPath = path.join('/tmp', `analysis-${Date.now()}-${file.name}`);
    await writeFile(tempPath, buffer);

    try {
      // Analyze the image
      const metadata = await extractMetadataFromImage(tempPath);
      
      const result = {
        success: true,
        filename: file.name,
        filesize: file.size,
        is_ai_generated: metadata?.ai_generation?.source !== 'unknown',
        ai_generator_type: metadata?.ai_generation?.source,
        prompt: metadata?.ai_generation?.prompt,
        complete_metadata: metadata,
      };

      return NextResponse.json(result);
    } finally {
      // Clean up temp file
      await unlink(tempPath).catch(console.error);
    }
  } catch (error) {
    console.error('Analysis error:', error);
    return NextResponse.json(
      { error: 'Analysis failed' },
      { status: 500 }
    );
  }
}
