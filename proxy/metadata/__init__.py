"""Metadata of image files: what a file says about itself, and which tool generated it."""
