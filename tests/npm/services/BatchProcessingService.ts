import Queue from 'bull';
import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';

const analysisQueue = new Queue('image analysis', 'redis://localhost:6379');

export class BatchProcessingService {
  constructor() {
    this.setupWorker();
  }
  
  private setupWorker() {
    analysisQueue.process('analyze', 5, async (job) => {
      const { imagePath, userId, options } = job.data;
      
      try {
        const metadata = await extractMetadataFromImage(imagePath);
        
        // Store results
        await this.storeResults(metadata, userId, imagePath);
        
        // Notify completion
        await this.notifyUser(userId, {
          status: 'completed',
          imagePath,
          metadata
        });
        
        return { success: true, metadata };
      } catch (error) {
        await this.notifyUser(userId, {
          status: 'failed',
          imagePath,
          error: error.message
        });
        throw error;
      }
    });
  }
  
  async queueAnalysis(imagePath: string, userId: string, options = {}) {
    const job = await analysisQueue.add('analyze', {
      imagePath,
      userId,
      options
    }, {
      delay: 0,
      attempts: 3,
      backoff: 'exponential'
    });
    
    return job.id;
  }
  
  async getBatchStatus(jobIds: string[]) {
    const jobs = await Promise.all(
      jobIds.map(id => analysisQueue.getJob(id))
    );
    
    return jobs.map(job => ({
      id: job?.id,
      status: job?.opts.attempts ? 'processing' : job?.finishedOn ? 'completed' : 'pending',
      progress: job?.progress() || 0,
      result: job?.returnvalue
    }));
  }
}
