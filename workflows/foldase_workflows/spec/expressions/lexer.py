"""Expression text to tokens."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from foldase_workflows.spec.expressions.nodes import ExpressionFault
from foldase_workflows.spec.faults import show
from foldase_workflows.spec.limits import INT_MAX, MAX_EXPRESSION


@dataclass(frozen=True, slots=True)
class Token:
    """``kind`` is ``number``, ``text``, ``name``, ``end`` or the symbol itself; ``text`` is as written."""

    kind: str
    text: str
    value: int | float | str | None
    offset: int


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<symbol>&&|\|\||==|!=|<=|>=|//|[-+*/%<>!?:.,()\[\]])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_SAME = {"&&": "and", "||": "or", "!": "not"}
_KEYWORDS = frozenset({"and", "or", "not", "in"})
_MISTAKES = {
    "=": "write == to compare",
    "&": "write `and`",
    "|": "write `or`",
    "^": "there is no power; multiply instead",
    "{": "there are no mappings in expressions",
    "'": "close the quote",
    '"': "close the quote",
}


def tokens(text: str, base: int = 0) -> list[Token]:
    """The tokens of an expression, an ``end`` token last; ``base`` is added to every offset.

    Raises:
        ExpressionFault: ``expression_limit``, ``expression_syntax`` or ``number_range``.
    """
    if len(text) > MAX_EXPRESSION:
        message = f"the expression has {len(text)} characters, the limit is {MAX_EXPRESSION}"
        raise ExpressionFault("expression_limit", message, base, "split it over several steps or inputs")
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            hint = _MISTAKES.get(text[at], "write values, names like inputs.NAME, operators and functions")
            message = f"{show(text[at])} is not understood here"
            raise ExpressionFault("expression_syntax", message, base + at, hint)
        kind, written = str(match.lastgroup), match.group()
        if kind != "space":
            found.append(_token(kind, written, base + at))
        at = match.end()
    found.append(Token("end", "", None, base + len(text)))
    return found


def _token(kind: str, written: str, offset: int) -> Token:
    if kind == "number":
        return Token("number", written, _number(written, offset), offset)
    if kind == "text":
        return Token("text", written, _text(written, offset), offset)
    if kind == "name":
        return Token(written if written in _KEYWORDS else "name", written, written, offset)
    return Token(_SAME.get(written, written), written, None, offset)


def _number(written: str, offset: int) -> int | float:
    hint = "whole numbers have 64 bits, others at most about 1.8e308"
    if len(written) <= 400:
        if written.isdigit():
            whole = int(written)
            if whole <= INT_MAX:
                return whole
        elif math.isfinite(float(written)):
            return float(written)
    raise ExpressionFault("number_range", f"{written[:40]} is out of range", offset, hint)


def _text(written: str, offset: int) -> str:
    def replace(match: re.Match[str]) -> str:
        escaped = match.group(1)
        if escaped not in _ESCAPES:
            message = f"there is no escape \\{escaped}"
            raise ExpressionFault(
                "expression_syntax", message, offset + 1 + match.start(), r"known are \n \t \\ \' and \""
            )
        return _ESCAPES[escaped]

    return _ESCAPE.sub(replace, written[1:-1])
