"""Adoption: taking over the originals and renditions of another system."""
