"""Pixels: the only package that imports pyvips; it runs only inside worker processes."""
