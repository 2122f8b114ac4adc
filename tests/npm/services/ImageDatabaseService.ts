import { PrismaClient } from '@prisma/client';
import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';

export class ImageDatabaseService {
  constructor(private prisma: PrismaClient) {}
  
  async createFromAnalysis(
    filepath: string,
    filename: string,
    filesize: number,
    userId: string
  ) {
    const metadata = await extractMetadataFromImage(filepath);
    
    const imageData = {
      filename,
      filepath,
      filesize,
      userId,
      width: metadata?.width,
      height: metadata?.height,
      isAiGenerated: metadata?.ai_generation?.source !== 'unknown',
      aiGenerator: metadata?.ai_generation?.source,
      prompt: metadata?.ai_generation?.prompt,
      negativePrompt: metadata?.ai_generation?.negativePrompt,
      steps: metadata?.ai_generation?.steps,
      cfgScale: metadata?.ai_generation?.cfgScale,
      sampler: metadata?.ai_generation?.sampler,
      seed: typeof metadata?.ai_generation?.seed === 'string' 
        ? metadata.ai_generation.seed 
        : metadata?.ai_generation?.seed?.toString(),
      checkpointModel: metadata?.ai_generation?.checkpoint,
      
      // Midjourney fields
      mjVersion: metadata?.ai_generation?.mjVersion,
      mjAspectRatio: metadata?.ai_generation?.mjAspectRatio,
      mjChaos: metadata?.ai_generation?.mjChaos,
      mjQuality: metadata?.ai_generation?.mjQuality,
      mjStylize: metadata?.ai_generation?.mjStylize,
      mjJobId: metadata?.ai_generation?.mjJobId,
      mjExperimental: metadata?.ai_generation?.mjExperimental,
      mjWeirdness: metadata?.ai_generation?.mjWeirdness,
      mjRaw: metadata?.ai_generation?.mjRaw,
      
      // ComfyUI fields
      comfyNodeCount: metadata?.ai_generation?.rawParameters?.comfyNodeCount,
      comfyWorkflowId: metadata?.ai_generation?.rawParameters?.comfyWorkflowId,
      
      rawMetadata: metadata
    };
    
    const image = await this.prisma.image.create({ data: imageData });
    
    // Auto-generate tags
    await this.generateTags(image.id, metadata);
    
    return image;
  }
  
  private async generateTags(imageId: string, metadata: any) {
    const tags = [];
    
    // Generator tag
    if (metadata?.ai_generation?.source && metadata.ai_generation.source !== 'unknown') {
      tags.push(`generator:${metadata.ai_generation.source}`);
    }
    
    // Version tags
    if (metadata?.ai_generation?.mjVersion) {
      tags.push(`midjourney:v${metadata.ai_generation.mjVersion}`);
    }
    
    // Style tags
    if (metadata?.ai_generation?.mjStyle) {
      tags.push(`style:${metadata.ai_generation.mjStyle}`);
    }
    
    // Model tags
    if (metadata?.ai_generation?.checkpoint) {
      tags.push(`model:${metadata.ai_generation.checkpoint.toLowerCase()}`);
    }
    
    // Quality indicators
    if (metadata?.ai_generation?.mjQuality && metadata.ai_generation.mjQuality >= 2) {
      tags.push('high-quality');
    }
    
    if (tags.length > 0) {
      await this.prisma.imageTag.createMany({
        data: tags.map(tag => ({ imageId, tag }))
      });
    }
  }
  
  async searchByMetadata(filters: {
    aiGenerator?: string;
    hasPrompt?: boolean;
    mjVersion?: string;
    minQuality?: number;
    tags?: string[];
  }) {
    const where: any = {};
    
    if (filters.aiGenerator) {
      where.aiGenerator = filters.aiGenerator;
    }
    
    if (filters.hasPrompt) {
      where.prompt = { not: null };
    }
    
    if (filters.mjVersion) {
      where.mjVersion = filters.mjVersion;
    }
    
    if (filters.minQuality) {
      where.mjQuality = { gte: filters.minQuality };
    }
    
    if (filters.tags && filters.tags.length > 0) {
      where.tags = {
        some: {
          tag: { in: filters.tags }
        }
      };
    }
    
    return this.prisma.image.findMany({
      where,
      include: {
        tags: true,
        user: { select: { id: true, name: true } }
      }
    });
  }
}
