"""What asyncio and the operating system lack: threads, streams, batches, retries, safe file access."""
