"""Attention and the few other operations that decide time and memory."""
