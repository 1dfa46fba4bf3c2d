"""Attention with any number of trainable biases, a mask, a gate, and the log-sum-exp of its scores."""

from foldase_kernels.attention.api import available_backends, evoformer_attention
from foldase_kernels.attention.merge import merge_attention

__all__ = ["available_backends", "evoformer_attention", "merge_attention"]
