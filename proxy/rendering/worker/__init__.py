"""The child process that renders; the only package that imports libvips."""
