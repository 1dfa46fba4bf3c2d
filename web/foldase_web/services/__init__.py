"""What the routes call: the work between HTTP and the store."""
