"""Tokens to a tree, by precedence climbing; bounded in depth and size.

From loose to tight: ``? :``, ``or``, ``and``, ``not``, comparisons and ``in``, ``+ -``, ``* / // %``,
unary ``-``, then fields, indices and calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from foldase_workflows.spec.expressions.lexer import Token, tokens
from foldase_workflows.spec.expressions.nodes import (
    Binary,
    Call,
    Choice,
    EachRef,
    ExpressionFault,
    Field,
    Index,
    InputRef,
    ListOf,
    Literal,
    Node,
    StepRef,
    Unary,
)
from foldase_workflows.spec.faults import did_you_mean, show
from foldase_workflows.spec.limits import MAX_EXPRESSION_DEPTH, MAX_EXPRESSION_NODES

_COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "not in"})
_LEVELS: dict[str, int] = {
    "or": 1,
    "and": 2,
    **dict.fromkeys(_COMPARISONS, 4),
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "//": 6,
    "%": 6,
}
_NOT_LEVEL, _UNARY_LEVEL = 3, 7
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_SPLIT = "split it over several steps or inputs"
_ROOTS = ("inputs", "steps", "each")


def parse(text: str, base: int = 0) -> Node:
    """The tree of the expression ``text``, without its ``${{ }}``; ``base`` is added to every offset.

    Raises:
        ExpressionFault: ``expression_syntax``, ``expression_limit``, ``number_range`` or ``unknown_name``.
    """
    return _Parser(tokens(text, base)).whole()


class _Parser:
    def __init__(self, found: Sequence[Token]) -> None:
        self.tokens = found
        self.at = 0
        self.nesting = 0
        self.depths: dict[int, int] = {}
        self.made: list[Node] = []

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def whole(self) -> Node:
        if self.token.kind == "end":
            raise self._fault("the expression is empty", "write a value or a reference like inputs.NAME")
        node = self._choice()
        if self.token.kind != "end":
            raise self._fault(f"{show(self.token.text)} is not expected here", "check operators and brackets")
        return node

    def _choice(self) -> Node:
        node = self._binary(1)
        if self.token.kind == "?":
            offset = self._next().offset
            then = self._choice()
            self._expect(":", "a choice is written condition ? one : other")
            node = self._made(Choice(node, then, self._choice(), offset=offset))
        return node

    def _binary(self, level: int) -> Node:
        self.nesting += 1
        if self.nesting > MAX_EXPRESSION_DEPTH:
            raise self._too_deep()
        left = self._unary(level)
        while (operator := self._operator()) and _LEVELS[operator] >= level:
            offset = self.token.offset
            self.at += 2 if operator == "not in" else 1
            right = self._binary(_LEVELS[operator] + 1)
            if operator in _COMPARISONS and self._operator() in _COMPARISONS:
                raise self._fault("comparisons cannot be chained", "write a < b and b < c")
            left = self._made(Binary(operator, left, right, offset=offset))
        self.nesting -= 1
        return left

    def _operator(self) -> str | None:
        kind = self.token.kind
        if kind == "not" and self.tokens[self.at + 1].kind == "in":
            return "not in"
        return kind if kind in _LEVELS else None

    def _unary(self, level: int) -> Node:
        token = self.token
        if token.kind == "not" and level <= _NOT_LEVEL:
            self._next()
            return self._made(Unary("not", self._binary(_NOT_LEVEL), offset=token.offset))
        if token.kind == "-":
            self._next()
            return self._made(Unary("-", self._binary(_UNARY_LEVEL), offset=token.offset))
        return self._postfix(self._primary())

    def _postfix(self, node: Node) -> Node:
        while self.token.kind in (".", "["):
            offset = self._next().offset
            if self.tokens[self.at - 1].kind == ".":
                node = self._made(Field(node, self._name("the name of a field"), offset=offset))
            else:
                index = self._choice()
                self._expect("]", "close the bracket")
                node = self._made(Index(node, index, offset=offset))
        return node

    def _primary(self) -> Node:
        token = self.token
        if token.kind not in ("number", "text", "name", "(", "["):
            wanted = "a value" if token.kind == "end" else f"a value, not {show(token.text)},"
            raise self._fault(f"{wanted} is expected here", "check operators and brackets")
        self._next()
        if token.kind in ("number", "text"):
            return self._made(Literal(token.value, offset=token.offset))
        if token.kind == "name":
            return self._named(token)
        if token.kind == "[":
            return self._made(ListOf(self._arguments("]"), offset=token.offset))
        node = self._choice()
        self._expect(")", "close the bracket")
        return node

    def _named(self, token: Token) -> Node:
        if token.text in _CONSTANTS:
            return self._made(Literal(_CONSTANTS[token.text], offset=token.offset))
        if self.token.kind == "(":
            self._next()
            return self._made(Call(token.text, self._arguments(")"), offset=token.offset))
        if token.text in _ROOTS:
            return self._made(self._reference(token))
        if token.text in ("True", "False", "None", "Null"):
            hint = f"write {token.text.lower().replace('none', 'null')}"
        else:
            hint = did_you_mean(token.text, _ROOTS, otherwise=f"quote it if it is text: '{token.text[:40]}'")
        raise ExpressionFault("unknown_name", f"there is no name {show(token.text)}", token.offset, hint)

    def _reference(self, root: Token) -> Node:
        self._dot(f"{root.text} cannot be used as a whole", f"name one, like {root.text}.NAME")
        offset = root.offset
        name = self._name("a name")
        if root.text == "inputs":
            return InputRef(name, offset=offset)
        if root.text == "each":
            return EachRef(name, offset=offset)
        self._dot(f"the step {name!r} cannot be used as a whole", f"name an output, like steps.{name}.OUTPUT")
        output = self._name("the name of an output")
        if output != "each":
            return StepRef(name, output, offset=offset)
        self._dot("`each` needs an output", f"write steps.{name}.each.OUTPUT")
        return StepRef(name, self._name("the name of an output"), gathered=True, offset=offset)

    def _arguments(self, closing: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while self.token.kind != closing:
            found.append(self._choice())
            if self.token.kind != ",":
                break
            self._next()
        self._expect(closing, "close the bracket, and put commas between the values")
        return tuple(found)

    def _dot(self, message: str, hint: str) -> None:
        if self.token.kind != ".":
            raise self._fault(message, hint)
        self._next()

    def _name(self, wanted: str) -> str:
        token = self.token
        if not token.text.isidentifier():
            raise self._fault(f"{wanted} is expected after the dot", "names hold letters, digits and _")
        self._next()
        return token.text

    def _expect(self, kind: str, hint: str) -> None:
        if self.token.kind != kind:
            found = show(self.token.text) if self.token.text else "the end"
            raise self._fault(f"{kind!r} is expected here, not {found}", hint)
        self._next()

    def _next(self) -> Token:
        token = self.token
        if token.kind != "end":
            self.at += 1
        return token

    def _made(self, node: Node) -> Node:
        """Note a part, bounding how many there are and how deep they lie in each other."""
        self.made.append(node)  # keeps the ids below unique
        depth = 1 + max((self.depths[id(child)] for child in node.children()), default=0)
        self.depths[id(node)] = depth
        if depth > MAX_EXPRESSION_DEPTH:
            raise self._too_deep()
        if len(self.made) > MAX_EXPRESSION_NODES:
            message = f"the expression has more than {MAX_EXPRESSION_NODES} parts"
            raise ExpressionFault("expression_limit", message, self.token.offset, _SPLIT)
        return node

    def _too_deep(self) -> ExpressionFault:
        message = f"the expression is nested more than {MAX_EXPRESSION_DEPTH} deep"
        return ExpressionFault("expression_limit", message, self.token.offset, _SPLIT)

    def _fault(self, message: str, hint: str) -> ExpressionFault:
        return ExpressionFault("expression_syntax", message, self.token.offset, hint)
