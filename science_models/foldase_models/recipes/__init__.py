"""Rank functions: each joins one kind of model with its data, losses and the trainer."""
