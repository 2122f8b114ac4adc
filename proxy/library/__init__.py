"""Library: imports files, and adopts storage trees of other systems."""
