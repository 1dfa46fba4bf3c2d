"""Where attempts run: Ray actors in the product, threads of one process in tests."""
