import Redis from 'ioredis';
import crypto from 'crypto';

export class MetadataCacheService {
  private redis: Redis;
  
  constructor() {
    this.redis = new Redis(process.env.REDIS_URL);
  }
  
  private getFileHash(buffer: Buffer): string {
    return crypto.createHash('sha256').update(buffer).digest('hex');
  }
  
  async getCachedMetadata(fileBuffer: Buffer) {
    const hash = this.getFileHash(fileBuffer);
    const cached = await this.redis.get(`metadata:${hash}`);
    
    if (cached) {
      return JSON.parse(cached);
    }
    
    return null;
  }
  
  async setCachedMetadata(fileBuffer: Buffer, metadata: any, ttl = 3600) {
    const hash = this.getFileHash(fileBuffer);
    await this.redis.setex(
      `metadata:${hash}`,
      ttl,
      JSON.stringify(metadata)
    );
  }
  
  async getAnalysisStats() {
    const keys = await this.redis.keys('metadata:*');
    const stats = {
      totalCached: keys.length,
      cacheHits: await this.redis.get('cache_hits') || '0',
      cacheMisses: await this.redis.get('cache_misses') || '0'
    };
    
    return stats;
  }
}
