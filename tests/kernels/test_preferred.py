"""A caller's wish for a backend, which every operation that has it follows."""

from __future__ import annotations

import pytest
import torch

from foldase_kernels import evoformer_attention
from foldase_kernels.backend_choice import chosen_backend
from foldase_kernels.preferred import preferred_backend, wished

CPU = torch.device("cpu")


def test_auto_means_the_wish_within_the_block_only():
    with preferred_backend("reference"):
        assert chosen_backend("transition", "auto", ("reference", "cpu"), CPU) == "reference"
        with preferred_backend("auto"):
            assert chosen_backend("transition", "auto", ("reference", "cpu"), CPU) == "cpu"
    assert chosen_backend("transition", "auto", ("reference", "cpu"), CPU) == "cpu"


def test_what_is_asked_for_goes_before_the_wish():
    with preferred_backend("reference"):
        assert chosen_backend("transition", "cpu", ("reference", "cpu"), CPU) == "cpu"


def test_an_operation_without_the_backend_chooses_as_ever():
    with preferred_backend("cuda"):
        assert wished("auto", ("reference", "cpu", "triton")) == "auto"
        assert wished("auto", ("reference", "cuda")) == "cuda"


def test_a_wish_that_cannot_be_fulfilled_is_told():
    q = torch.zeros(1, 2, 1, 4)
    with preferred_backend("cuda"), pytest.raises(ValueError, match="cuda"):
        evoformer_attention(q, q, q)


def test_a_backend_that_nothing_has():
    with pytest.raises(ValueError, match="expected one of auto"), preferred_backend("fastest"):
        pass
