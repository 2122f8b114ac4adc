"""The queue and the renderer of finals."""
