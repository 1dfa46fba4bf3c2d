"""Sizes at which attention changes its way of working. No torch, so that planners can read them."""

SMALL_SCORES = 8 * 2**20
"""Bytes of scores up to which the CPU keeps them for the backward pass; below it tiling only costs time."""
