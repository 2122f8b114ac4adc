"""Rendition stores: in memory, on disk, and both as two tiers."""
