"""Analysis of an image by its pixels and by configured providers."""
