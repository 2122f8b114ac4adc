"""API keys and user tokens."""
