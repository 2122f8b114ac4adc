"""Facts for examiners of a file, in the confined worker: observations, never a verdict."""
