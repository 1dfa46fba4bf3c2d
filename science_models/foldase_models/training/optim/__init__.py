"""Optimizers on flat vectors, in whatever tier these lie."""
