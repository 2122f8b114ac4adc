import { Worker, Job } from 'bullmq';
import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';

export class BackgroundMetadataProcessor {
  private worker: Worker;
  
  constructor() {
    this.worker = new Worker('metadata-analysis', this.processJob.bind(this), {
      connection: { host: 'localhost', port: 6379 },
      concurrency: 3,
    });
  }
  
  private async processJob(job: Job) {
    const { imagePath, callback } = job.data;
    
    try {
      const metadata = await extractMetadataFromImage(imagePath);
      
      // Call webhook or update database
      if (callback) {
        await this.notifyCompletion(callback, metadata);
      }
      
      return { success: true, metadata };
    } catch (error) {
      throw new Error(`Processing failed: ${error.message}`);
    }
  }
  
  private async notifyCompletion(callbackUrl: string, metadata: any) {
    try {
      await fetch(callbackUrl, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ metadata })
      });
    } catch (error) {
      console.error('Callback notification failed:', error);
    }
  }
}
