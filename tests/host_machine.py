"""The host build in place of a GPU: what the cuda backend is started on where there is none."""

from __future__ import annotations

import ctypes
from contextlib import nullcontext

import torch


class HostMachine:
    """Every device has the host build, whose kernels read and write memory of the processor."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def library(self, device: torch.device) -> ctypes.CDLL:
        return self._library

    def stream(self, device: torch.device) -> int:
        return 0

    def guard(self, device: torch.device) -> nullcontext:
        return nullcontext()
