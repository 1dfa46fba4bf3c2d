"""Models that predict structure: one folder a model, the same file names in each."""
