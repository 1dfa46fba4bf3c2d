"""What a CUDA kernel takes of a multiprocessor, read from what the assembler says (``ptxas -v``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENTRY = re.compile(r"Compiling entry function '([^']+)' for '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True, slots=True)
class Resources:
    """One kernel: its mangled name, registers a thread, and bytes a thread or, for ``shared``, a block."""

    kernel: str
    arch: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


def read_ptxas(said: str) -> list[Resources]:
    """The kernels that ``ptxas -v`` speaks of, in its order; other lines are passed over."""
    found: list[Resources] = []
    for block in re.split(r"(?=ptxas info\s*: Compiling entry function)", said):
        entry, registers = _ENTRY.search(block), _REGISTERS.search(block)
        if entry is None or registers is None:
            continue
        stack = _stack_of(entry[1], block)
        shared = _SHARED.search(block)
        found.append(
            Resources(entry[1], entry[2], int(registers[1]), *stack, int(shared[1]) if shared else 0)
        )
    return found


def _stack_of(kernel: str, block: str) -> tuple[int, int, int]:
    """The stack line that follows the kernel's own name: functions it calls have lines of theirs."""
    for named in _PROPERTIES.finditer(block):
        if named[1] == kernel:
            line = _STACK.search(block, named.end())
            if line is not None:
                return int(line[1]), int(line[2]), int(line[3])
    return 0, 0, 0
