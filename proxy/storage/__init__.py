"""Where data is kept: the database, originals, renditions and uploaded files."""
