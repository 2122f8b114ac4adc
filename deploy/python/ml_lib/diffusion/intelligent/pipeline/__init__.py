"""Part of the path of `services.image_metadata`."""
