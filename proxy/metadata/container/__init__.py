"""The container walk: reads the metadata of a file without decoding its pixels.

`proxy.metadata.container.walk` selects the reader of a format. It parses strangers' bytes, so it
runs in confined processes only.
"""
