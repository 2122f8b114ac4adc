import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';
import { db } from '@/lib/database';

export class AssetAnalysisService {
  async processUpload(file: File, userId: string) {
    // Save file to storage
    const filePath = await this.saveToStorage(file);
    
    // Analyze metadata
    const metadata = await extractMetadataFromImage(filePath);
    
    // Store in database
    const asset = await db.assets.create({
      data: {
        filename: file.name,
        filePath,
        fileSize: file.size,
        userId,
        isAiGenerated: metadata?.ai_generation?.source !== 'unknown',
        aiGenerator: metadata?.ai_generation?.source,
        prompt: metadata?.ai_generation?.prompt,
        negativePrompt: metadata?.ai_generation?.negativePrompt,
        metadata: metadata,
        // AI-specific fields
        mjVersion: metadata?.ai_generation?.mjVersion,
        mjJobId: metadata?.ai_generation?.mjJobId,
        sdSampler: metadata?.ai_generation?.sampler,
        sdSteps: metadata?.ai_generation?.steps,
      }
    });
    
    // Tag assets based on AI generation
    if (metadata?.ai_generation?.source !== 'unknown') {
      await this.autoTagAIAsset(asset.id, metadata);
    }
    
    return asset;
  }
  
  private async autoTagAIAsset(assetId: string, metadata: any) {
    const tags = [];
    
    // Add generator tag
    tags.push(`ai-${metadata.ai_generation.source}`);
    
    // Add style tags for Midjourney
    if (metadata.ai_generation.mjStyle) {
      tags.push(`style-${metadata.ai_generation.mjStyle}`);
    }
    
    // Add model tags for Stable Diffusion
    if (metadata.ai_generation.checkpoint) {
      tags.push(`model-${metadata.ai_generation.checkpoint.toLowerCase()}`);
    }
    
    // Apply tags
    await db.assetTags.createMany({
      data: tags.map(tag => ({ assetId, tag }))
    });
  }
}
