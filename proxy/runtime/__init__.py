"""Additions to asyncio and os: supervised tasks, threads, streams, batches, safe file access."""
