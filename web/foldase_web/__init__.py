"""The HTTP API of foldase and the page it serves."""
