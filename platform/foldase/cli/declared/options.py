"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None,
    typer.Option("--home", help="state folder (default: ./.foldase)", envvar="FOLDASE_HOME", metavar="DIR"),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="print one JSON document on stdout, nothing else; errors on stderr")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="id of a run", show_default=False)]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", metavar="NAME=VALUE", help="an input; a file is given as NAME=@path"),
]
Target = Annotated[
    str,
    typer.Argument(
        metavar="WORKFLOW",
        help="a name in the catalog, or the path of a workflow or an experiment",
        show_default=False,
    ),
]
Detach = Annotated[
    bool, typer.Option("--detach/--watch", help="return at once, or show the run until it is over")
]
