"""Analysis without a model: what the pixels of a picture tell by themselves."""
