"""``up``, ``down``, ``demo``, ``doctor``, ``kernels``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldase.cli.declared.options import AsJson, Home

Port = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="of the page; 0: any free one (default: the first free from 8420)"),
]


def up(
    home: Home = None,
    port: Port = None,
    background: Annotated[
        bool, typer.Option("--background", "-d", help="return when the page answers")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = True,
    ray: Annotated[
        bool, typer.Option("--ray/--no-ray", help="run steps on Ray, or in threads of one process")
    ] = True,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="folder of public weights: each folder below it is a name that workflows may use",
            envvar="FOLDASE_WEIGHTS",
            metavar="DIR",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", hidden=True)] = False,
    as_json: AsJson = False,
) -> int:
    """Start the platform: the page answers at once, the cluster starts behind it."""
    from foldase.cli.up import up as run

    return run(
        home,
        port,
        background=background,
        open_page=open_page,
        ray=ray,
        weights=weights,
        quiet=quiet,
        as_json=as_json,
    )


def down(home: Home = None, as_json: AsJson = False) -> int:
    """Stop the platform."""
    from foldase.cli.up import down as run

    return run(home, as_json=as_json)


def demo(
    home: Home = None,
    port: Port = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="NAME=VALUE", help="another size of the demo")
    ] = None,
) -> int:
    """Start the platform, run the demonstration and keep serving; with DEMO_EXIT=1 stop after the result."""
    from foldase.cli.demo import demo as run

    return run(home, port, inputs or [])


def doctor(home: Home = None, as_json: AsJson = False) -> int:
    """Say what this installation has and what is missing."""
    from foldase.cli.doctor import doctor as run

    return run(home, as_json=as_json)


def kernels(context: typer.Context) -> int:
    """The attention kernels: build, doctor, list (python -m foldase_kernels)."""
    import subprocess
    import sys

    return subprocess.call([sys.executable, "-m", "foldase_kernels", *context.args])


def declare(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (up, down, demo, doctor):
        app.command()(command)
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=passed_on, add_help_option=False)(kernels)
