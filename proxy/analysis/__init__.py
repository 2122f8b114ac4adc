"""Analysis of images: by their pixels, by vision providers, and by text recognition."""
