"""Vision providers, and text recognition with Tesseract."""
