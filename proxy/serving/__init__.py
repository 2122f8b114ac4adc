"""From a request to bytes: find a rendition, render it, replace a draft by its final."""
