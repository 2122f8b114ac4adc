"""Stores data: the database, originals, renditions and uploaded files."""
