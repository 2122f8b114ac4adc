import WebSocket from 'ws';
import { extractMetadataFromImage } from '@/METDATAANALYZER/backend/utils/image-metadata';

export class RealtimeAnalysisService {
  private wss: WebSocket.Server;
  
  constructor(server: any) {
    this.wss = new WebSocket.Server({ server });
    this.setupWebSocket();
  }
  
  private setupWebSocket() {
    this.wss.on('connection', (ws) => {
      ws.on('message', async (message) => {
        try {
          const data = JSON.parse(message.toString());
          
          if (data.type === 'analyze') {
            await this.handleAnalysis(ws, data);
          }
        } catch (error) {
          ws.send(JSON.stringify({
            type: 'error',
            error: error.message
          }));
        }
      });
    });
  }
  
  private async handleAnalysis(ws: WebSocket, data: any) {
    const { imagePath, sessionId } = data;
    
    // Send start notification
    ws.send(JSON.stringify({
      type: 'analysis_started',
      sessionId
    }));
    
    try {
      // Perform analysis with progress updates
      const metadata = await this.analyzeWithProgress(imagePath, (progress) => {
        ws.send(JSON.stringify({
          type: 'progress',
          sessionId,
          progress
        }));
      });
      
      // Send results
      ws.send(JSON.stringify({
        type: 'analysis_complete',
        sessionId,
        metadata
      }));
    } catch (error) {
      ws.send(JSON.stringify({
        type: 'analysis_error',
        sessionId,
        error: error.message
      }));
    }
  }
  
  private async analyzeWithProgress(
    imagePath: string,
    onProgress: (progress: number) => void
  ) {
    onProgress(10);
    
    const metadata = await extractMetadataFromImage(imagePath);
    onProgress(50);
    
    // Simulate additional processing
    await new Promise(resolve => setTimeout(resolve, 1000));
    onProgress(100);
    
    return metadata;
  }
}
