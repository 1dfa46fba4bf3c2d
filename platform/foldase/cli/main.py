"""Entry point of the ``foldase`` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from foldase.cli.declared import documents, platform, runs
from foldase.cli.outcome import Exit, report
from foldase_workflows.contracts.errors import BadInput, FoldaseError

# The root of usage errors; typer hands on only its leaves.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="foldase",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def foldase(
    show_version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    """Run experiments of structural biology described in YAML.

    Exit status: 0 done, 1 a run failed, 2 something in the request or document is wrong, 3 the server cannot
    be reached, 130 interrupted.
    """
    if show_version:
        print(_version())
        raise typer.Exit


platform.declare(app)
runs.declare(app)
documents.declare(app)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors are told, never shown as tracebacks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        status = app(arguments, prog_name="foldase", standalone_mode=False)
    except FoldaseError as error:
        return report(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; nothing more can be said, not even by the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return report(FoldaseError(f"{place}{error.strerror or error}", code="system"), as_json=as_json)
    except _UsageError as error:
        return _usage(error, as_json=as_json)
    return int(status or 0)


def _usage(error: Exception, *, as_json: bool) -> int:
    if as_json:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return report(BadInput(message, code="usage", hint="see `foldase --help`"), as_json=True)
    if hasattr(error, "show"):
        error.show()
    return int(getattr(error, "exit_code", Exit.WRONG))


def _version() -> str:
    try:
        return version("foldase")
    except PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    sys.exit(main())
