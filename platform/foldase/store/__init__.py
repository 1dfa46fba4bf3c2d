"""Durable state: the database, the content-addressed blobs and the event log."""
