"""Uploads: temporary files of pictures that are not processed yet, below one root."""
