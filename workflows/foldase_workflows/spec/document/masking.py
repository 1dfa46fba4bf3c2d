"""Expressions hold characters that YAML reads as its own: ``with: {a: ${{ x ? 1 : 2 }}}``.

Before YAML sees the text, the ASCII characters of every expression outside quotes are exchanged one for
one with private characters that mean nothing to it, so that all places stay the same; the values are
changed back afterwards. Inside quotes and block texts YAML leaves expressions alone anyway. The same is
done to types like ``list[int]``, which could not stand inside ``{}`` otherwise.
"""

from __future__ import annotations

import re

from foldase_workflows.spec.document.characters import MASK_FIRST, MASK_LAST

OPENING, CLOSING = "${{", "}}"

_MASK = {code - MASK_FIRST: code for code in range(MASK_FIRST, MASK_LAST + 1)}
_UNMASK = {code: code - MASK_FIRST for code in range(MASK_FIRST, MASK_LAST + 1)}
_MASKED = re.compile("[\ue000-\ue07f]")
_LIST_TYPE = re.compile(r"(?:list\[){1,8}[a-z]+\]{1,8}", re.ASCII)
_MARKS = re.compile(r"\\.|['\"]|\}\}", re.DOTALL)


def find_closing(text: str, start: int, end: int | None = None) -> int:
    """The index of the ``}}`` that ends an expression whose inside begins at ``start``, or -1.

    A ``}}`` inside a quoted text of the expression does not end it, unless the quote is never closed.
    """
    stop = len(text) if end is None else end
    quote = ""
    for found in _MARKS.finditer(text, start, stop):
        mark = found.group()
        if mark == CLOSING:
            if not quote:
                return found.start()
        elif mark == quote:
            quote = ""
        elif not quote and mark in "'\"":
            quote = mark
    return text.find(CLOSING, start, stop)


def mask(text: str) -> str:
    """The text with its expressions made opaque to YAML; the same length, the same lines."""
    if OPENING not in text and "list[" not in text:
        return text
    masker = _Masker()
    return "".join(masker.line(line) for line in text.splitlines(keepends=True))


def unmask(value: str) -> str:
    """The inverse of :func:`mask`, for one value."""
    return value.translate(_UNMASK) if _MASKED.search(value) else value


class _Masker:
    """Follows just enough of YAML, line by line, to know what is quoted, a comment or a block text."""

    def __init__(self) -> None:
        self.quote = ""
        self.flow = 0
        self.block: int | None = None
        self.open_plain: int | None = None
        self.closings = True

    def line(self, line: str) -> str:
        body = line.lstrip(" ")
        indent = len(line) - len(body)
        if self.block is not None:
            if not body.strip() or indent > self.block:
                return line
            self.block = None
        self.closings = CLOSING in body
        fresh = not (self.open_plain is not None and not self.flow and indent > self.open_plain)
        return self._scan(line, indent, fresh)

    def _scan(self, line: str, at: int, fresh: bool) -> str:
        """Walk one line; ``fresh`` says whether a new token may begin here."""
        out, copied, dash, key = [], 0, -1, at
        while at < len(line):
            if self.quote:
                at, fresh = self._skip_quoted(line, at), False
                continue
            character = line[at]
            if character == "#" and (at == 0 or line[at - 1] in " \t"):
                break
            end = self._opaque_until(line, at, fresh)
            if end > at:
                out += [line[copied:at], line[at:end].translate(_MASK)]
                at, copied, fresh = end, end, False
                continue
            if fresh and character in "'\"":
                self.quote = character
            elif fresh and not self.flow and character in "|>":
                self.block = dash if line[dash + 1 : at].strip() == "" and dash >= 0 else key
                break
            elif fresh and not self.flow and character in "-?" and line[at + 1 : at + 2] in (" ", ""):
                dash, key = at, at + 1 + _spaces(line, at + 1)
            else:
                fresh = self._structure(line, at, fresh)
            at += 1
        self.open_plain = None if fresh or self.quote or self.block is not None else key
        return "".join(out) + line[copied:]

    def _opaque_until(self, line: str, at: int, fresh: bool) -> int:
        """Where the expression or the list type that begins at ``at`` ends; ``at`` where there is none."""
        if line.startswith(OPENING, at) and self.closings:
            end = find_closing(line, at + len(OPENING))
            # Once an expression is not closed, none after it on the line is.
            self.closings = end >= 0
            return end + len(CLOSING) if end >= 0 else at
        if fresh and line.startswith("list[", at) and (found := _LIST_TYPE.match(line, at)):
            return found.end()
        return at

    def _structure(self, line: str, at: int, fresh: bool) -> bool:
        """Follow one character outside quotes; whether a new token may begin after it."""
        character = line[at]
        if character in "[{" and (fresh or self.flow):
            self.flow += 1
            return True
        if character in "]}" and self.flow:
            self.flow -= 1
            return False
        if character == "," and self.flow:
            return True
        if character == ":" and (line[at + 1 : at + 2] in (" ", "\t", "\n", "\r", "") or self.flow):
            return True
        return fresh if character in " \t\r\n" else False

    def _skip_quoted(self, line: str, at: int) -> int:
        """The index after the closing quote, or the end of the line."""
        while at < len(line):
            if self.quote == '"' and line[at] == "\\":
                at += 2
            elif line[at] == self.quote:
                if self.quote == "'" and line[at + 1 : at + 2] == "'":
                    at += 2
                else:
                    self.quote = ""
                    return at + 1
            else:
                at += 1
        return at


def _spaces(line: str, at: int) -> int:
    return len(line) - at - len(line[at:].lstrip(" "))
