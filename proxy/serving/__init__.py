"""Finds or renders the rendition for a request, and replaces drafts by their finals."""
