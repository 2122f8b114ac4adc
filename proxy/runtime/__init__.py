"""What asyncio and the operating system lack: threads, streams, batches, safe file access."""
