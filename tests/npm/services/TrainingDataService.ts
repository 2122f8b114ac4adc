import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';
import fs from 'fs/promises';
import path from 'path';

export class TrainingDataService {
  async classifyAndOrganize(inputDir: string, outputDir: string) {
    const files = await fs.readdir(inputDir);
    const imageFiles = files.filter(f => /\.(png|jpg|jpeg|webp)$/i.test(f));
    
    const results = {
      processed: 0,
      byGenerator: new Map<string, number>(),
      organized: new Map<string, string[]>()
    };
    
    for (const file of imageFiles) {
      try {
        const inputPath = path.join(inputDir, file);
        const metadata = await extractMetadataFromImage(inputPath);
        
        const generator = metadata?.ai_generation?.source || 'unknown';
        
        // Update statistics
        results.byGenerator.set(
          generator,
          (results.byGenerator.get(generator) || 0) + 1
        );
        
        // Organize by generator
        const outputSubDir = path.join(outputDir, generator);
        await fs.mkdir(outputSubDir, { recursive: true });
        
        // Create metadata file
        const metadataFile = path.join(
          outputSubDir,
          `${path.parse(file).name}_metadata.json`
        );
        await fs.writeFile(metadataFile, JSON.stringify(metadata, null, 2));
        
        // Move image file
        const outputPath = path.join(outputSubDir, file);
        await fs.copyFile(inputPath, outputPath);
        
        // Track organized files
        if (!results.organized.has(generator)) {
          results.organized.set(generator, []);
        }
        results.organized.get(generator)!.push(file);
        
        results.processed++;
      } catch (error) {
        console.error(`Failed to process ${file}:`, error);
      }
    }
    
    // Generate summary report
    const report = {
      totalProcessed: results.processed,
      breakdown: Object.fromEntries(results.byGenerator),
      files: Object.fromEntries(results.organized)
    };
    
    await fs.writeFile(
      path.join(outputDir, 'classification_report.json'),
      JSON.stringify(report, null, 2)
    );
    
    return report;
  }
}
