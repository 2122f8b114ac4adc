import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';

export class ModerationService {
  async analyzeForModeration(imagePath: string) {
    const metadata = await extractMetadataFromImage(imagePath);
    
    const analysis = {
      requiresReview: false,
      flags: [],
      confidence: 0,
      metadata
    };
    
    // Flag AI-generated content
    if (metadata?.ai_generation?.source !== 'unknown') {
      analysis.flags.push({
        type: 'ai_generated',
        source: metadata.ai_generation.source,
        confidence: 0.9
      });
    }
    
    // Check for concerning prompts
    if (metadata?.ai_generation?.prompt) {
      const prompt = metadata.ai_generation.prompt.toLowerCase();
      const concerningTerms = ['violence', 'explicit', 'illegal'];
      
      for (const term of concerningTerms) {
        if (prompt.includes(term)) {
          analysis.flags.push({
            type: 'concerning_prompt',
            term,
            confidence: 0.8
          });
          analysis.requiresReview = true;
        }
      }
    }
    
    // Analyze generation parameters
    if (metadata?.ai_generation?.source === 'midjourney') {
      // Check for unusual parameters that might indicate problematic content
      if (metadata.ai_generation.mjChaos > 80) {
        analysis.flags.push({
          type: 'high_chaos',
          value: metadata.ai_generation.mjChaos,
          confidence: 0.6
        });
      }
    }
    
    return analysis;
  }
}
