"""Language models: one folder a model, the same file names in each."""
