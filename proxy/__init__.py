"""smartserve: an async, streaming, smart-serving image proxy."""

__version__ = "0.1.0"
