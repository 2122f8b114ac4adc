"""Originals: the uploaded files below the storage root, opened by descriptor."""
