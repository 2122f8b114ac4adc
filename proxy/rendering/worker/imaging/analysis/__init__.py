"""Image analysis by statistics, without a machine-learning model."""
