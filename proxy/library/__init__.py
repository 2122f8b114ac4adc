"""Adding existing files to the media library: import and adoption."""
