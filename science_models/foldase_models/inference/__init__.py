"""Models at work on data they were not trained on."""
