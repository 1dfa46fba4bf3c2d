"""YAML text to a tree, strictly: bounded, without anchors and tags, duplicate keys refused.

Works on libyaml's events, one at a time and without recursion, so that a hostile text costs no more than
its length. Nothing but ``DocumentErrors`` and ``TooLarge`` leaves this module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from foldase_workflows.contracts.errors import Location, TooLarge
from foldase_workflows.spec.document.characters import first_bad, first_bad_in_value, name_of
from foldase_workflows.spec.document.masking import mask, unmask
from foldase_workflows.spec.document.scalars import ScalarFault, resolve
from foldase_workflows.spec.document.tree import Mapping, Node, Scalar, Sequence, Source
from foldase_workflows.spec.faults import Faults, Path, dotted, show
from foldase_workflows.spec.limits import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_STEPS
from foldase_workflows.spec.quantities import show_bytes

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BYTE_ORDER_MARK = "\ufeff"
_NO_ANCHORS = "write the value out where it is needed; `defaults` holds what all steps share"


def read_tree(text: str, *, file: str = "<text>") -> tuple[Source, Faults]:
    """Read a YAML text. The faults that leave a readable tree are returned with it.

    Raises:
        TooLarge: ``body_too_large``, before anything is parsed.
        DocumentErrors: there is no tree: a syntax error, a character that may not be there, a limit.
    """
    check_size(text, file=file)
    text = text.removeprefix(_BYTE_ORDER_MARK)
    source = Source(file, text, None)
    faults = Faults(source)
    _check_characters(source, faults)
    reader = _Reader(source, faults)
    try:
        for event in yaml.parse(mask(text), Loader=_Loader):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        _syntax_fault(error, source, faults)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # PyYAML lets the reader's own errors through; the characters were checked, so this is rare.
        message = f"the text cannot be read as YAML: {str(error)[:200]}"
        faults.add_at(
            Location(file=file), "yaml_syntax", message, hint="check the quotes and the indentation"
        )
    except _Stop:
        pass
    if reader.stopped or source.root is None:
        if not faults:
            faults.add_at(
                Location(file=file, line=1, column=1),
                "yaml_syntax",
                "the document is empty",
                hint="start with `version: 1`",
            )
        faults.raise_if_any()
    return source, faults


def check_size(text: str, *, file: str = "<text>") -> None:
    """Refuse a text of more than 1 MiB.

    Raises:
        TooLarge: ``body_too_large``.
    """
    size = len(text)
    if size <= MAX_BYTES:
        size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise TooLarge(
            f"the document is too large: limit {show_bytes(MAX_BYTES)}, got {show_bytes(size)}",
            code="body_too_large",
            location=Location(file=file),
            hint="give data as files, not inside the document",
        )


def _check_characters(source: Source, faults: Faults) -> None:
    at = first_bad(source.text)
    while at is not None:
        message = f"{name_of(source.text[at])} may not be in a document"
        faults.add_at(source.at_index(at), "bad_characters", message, hint="delete it")
        at = first_bad(source.text, at + 1)
    faults.raise_if_any()


def _syntax_fault(error: yaml.MarkedYAMLError, source: Source, faults: Faults) -> None:
    problem, context = error.problem or "not understood", error.context or ""
    opened: Any = error.context_mark
    mark: Any = error.problem_mark or opened
    hint = "check the quotes, the brackets and the indentation"
    line, column = (mark.line, mark.column) if mark else (0, 0)
    if "quoted scalar" in context and opened:
        line, column = opened.line, opened.column
        problem, context, hint = "a quoted text that is never closed", "", "close the quote on the same line"
    elif mark and source.text[mark.index : mark.index + 1] == "\t":
        problem, context, hint = "a tab where YAML wants spaces", "", "indent with spaces"
    elif "flow" in context and opened and not source.text[mark.index :].strip():
        line, column = opened.line, opened.column
        problem, context, hint = "a bracket that is never closed", "", "close the bracket"
    elif "flow" in context and opened:
        context = f"in the brackets opened on line {opened.line + 1}, column {opened.column + 1}"
    elif "mapping values are not allowed" in problem:
        hint = "quote a text that holds ': ', and give each key its own line"
    where = f" ({context})" if context else ""
    faults.add_at(source.at(line, column), "yaml_syntax", f"{problem}{where}", hint=hint)


class _Stop(Exception):
    """A limit was reached; the rest of the text is not read."""


@dataclass(slots=True)
class _Frame:
    """A mapping or list being filled. ``key`` waits for its value; ``part`` is its place in its parent."""

    node: Mapping | Sequence
    is_key: bool
    key: Scalar | None = None
    name: str | None = None
    waiting: bool = False
    part: str | int = ""


class _Reader:
    """Builds the tree from events."""

    def __init__(self, source: Source, faults: Faults) -> None:
        self.source = source
        self.faults = faults
        self.stack: list[_Frame] = []
        self.nodes = 0
        self.documents = 0
        self.stopped = False

    def take(self, event: Any) -> None:
        """Handle one event."""
        if isinstance(event, yaml.ScalarEvent):
            self._count(event)
            self._check_marks(event)
            self._attach(self._scalar(event))
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._count(event)
            self._check_marks(event)
            self._open(event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._count(event)
            self._fault(event, "yaml_alias_limit", f"aliases like *{event.anchor} are not read", _NO_ANCHORS)
            start: Any = event.start_mark
            end: Any = event.end_mark
            nothing = Scalar(start.line, start.column, start.index, end.index, None, "", "")
            self._attach(nothing, poison=True)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._stop(event, "yaml_syntax", "a second document begins here", "one file, one document")

    def _count(self, event: Any) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            hint = "give data as files, not inside the document"
            self._stop(event, "too_many_nodes", f"the document has more than {MAX_NODES} values", hint)

    def _check_marks(self, event: Any) -> None:
        if event.anchor is not None:
            self._fault(event, "yaml_alias_limit", f"anchors like &{event.anchor} are not read", _NO_ANCHORS)
        if event.tag is not None:
            named = unmask(str(event.tag)).removeprefix("tag:yaml.org,2002:")
            hint = "leave the tag out; quote a value that is text"
            self._fault(event, "yaml_tag", f"tags like {show(named)} are not read", hint)
            if not self._wants_key():
                self.faults.poison((*self._path(), *self._next_part()))

    def _scalar(self, event: Any) -> Scalar:
        start, end = event.start_mark, event.end_mark
        raw = unmask(event.value)
        value: Any = raw
        poison = False
        if event.style in (None, ""):
            try:
                value = resolve(raw)
            except ScalarFault as fault:
                self._fault(event, fault.code, fault.message, fault.hint)
                poison = True
        elif event.style == '"' and (bad := first_bad_in_value(raw)) is not None:
            message = f"{name_of(raw[bad])} may not be in a document"
            self._fault(event, "bad_characters", message, "delete its escape")
            poison = True
        node = Scalar(start.line, start.column, start.index, end.index, value, raw, event.style or "")
        if poison and not self._wants_key():
            self.faults.poison((*self._path(), *self._next_part()))
        return node

    def _open(self, event: Any) -> None:
        mark = event.start_mark
        if len(self.stack) >= MAX_DEPTH:
            message = f"values are nested more than {MAX_DEPTH} deep"
            self._stop(event, "yaml_depth", message, "flatten the document")
        make = Mapping if isinstance(event, yaml.MappingStartEvent) else Sequence
        frame = _Frame(make(mark.line, mark.column), is_key=self._wants_key(), part=self._part())
        if frame.is_key:
            self._fault(
                event, "type", "a key must be text, not a list or a mapping", "use a plain name as key"
            )
        self.stack.append(frame)

    def _close(self) -> None:
        frame = self.stack.pop()
        if frame.is_key:
            parent = self.stack[-1]
            parent.key, parent.name, parent.waiting = None, None, True
        else:
            self._attach(frame.node)

    def _attach(self, node: Node, *, poison: bool = False) -> None:
        if not self.stack:
            self.source.root = node
            return
        frame = self.stack[-1]
        if poison and not self._wants_key():
            self.faults.poison((*self._path(), *self._next_part()))
        if isinstance(frame.node, Sequence):
            frame.node.items.append(node)
        elif not frame.waiting:
            assert isinstance(node, Scalar)
            self._take_key(frame, node)
        else:
            if frame.name is not None and frame.key is not None:
                frame.node.entries.setdefault(frame.name, (frame.key, node))
            frame.waiting = False

    def _take_key(self, frame: _Frame, key: Scalar) -> None:
        """Note the key whose value comes next; a key that cannot be used drops its value."""
        assert isinstance(frame.node, Mapping)
        frame.waiting, frame.key, frame.name = True, key, None
        path = self._path()
        if key.style == "" and key.raw == "<<":
            self._key_fault(key, "yaml_alias_limit", "merge keys are not read", _NO_ANCHORS)
        elif not isinstance(key.value, str):
            message = f"a key must be text, but {show(key.value)} is not"
            self._key_fault(key, "type", message, f'quote it: "{key.raw[:40]}"')
        elif key.value in frame.node.entries:
            first = frame.node.entries[key.value][0].line + 1
            code = "duplicate_step" if path == ("steps",) else "yaml_duplicate_key"
            message = f"{show(key.value)} is given twice, on line {first} and on line {key.line + 1}"
            self._key_fault(key, code, message, "keep one of the two, or rename one")
        else:
            frame.name = key.value
        if path == ("steps",) and len(frame.node.entries) >= MAX_STEPS:
            self.stopped = True
            message = f"the workflow has more than {MAX_STEPS} steps"
            self._key_fault(key, "too_many_steps", message, "scatter one step with `each` instead")
            raise _Stop

    def _wants_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].node, Mapping) and not self.stack[-1].waiting

    def _part(self) -> str | int:
        """The last part of the path of the node that comes next."""
        return next(iter(self._next_part()), "")

    def _next_part(self) -> Iterator[str | int]:
        if not self.stack:
            return
        frame = self.stack[-1]
        if isinstance(frame.node, Sequence):
            yield len(frame.node.items)
        elif frame.waiting:
            yield frame.name if frame.name is not None else "?"

    def _path(self) -> Path:
        return tuple(frame.part for frame in self.stack[1:])

    def _fault(self, event: Any, code: str, message: str, hint: str) -> None:
        mark = event.start_mark
        path = (*self._path(), *self._next_part())
        self.faults.add_at(self.source.at(mark.line, mark.column, path), code, message, hint=hint)

    def _key_fault(self, key: Scalar, code: str, message: str, hint: str) -> None:
        path = (*self._path(), key.raw[:80])
        location = Location(self.source.file, key.line + 1, key.column + 1, dotted(path))
        self.faults.add_at(location, code, message, hint=hint)

    def _stop(self, event: Any, code: str, message: str, hint: str) -> None:
        self.stopped = True
        self._fault(event, code, message, hint)
        raise _Stop
