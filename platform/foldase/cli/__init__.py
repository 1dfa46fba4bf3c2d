"""The ``foldase`` command."""
