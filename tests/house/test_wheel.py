"""What `pip install foldase` gives a person who has no checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"foldase", "foldase_kernels", "foldase_models", "foldase_web", "foldase_workflows"}

pytestmark = [pytest.mark.verify, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=900)
    return next(folder.glob("foldase-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a fresh environment with the wheel and its pinned dependencies."""
    environment = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=300)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run(
        [*pip, "--constraint", str(ROOT / "constraints.txt"), str(wheel)], check=True, timeout=1500
    )
    return environment / "bin"


def _outside(command: list[str], folder: Path) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FOLDASE"))
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_five_packages_the_catalog_the_page_and_no_source_of_the_page(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]} == PACKAGES
    assert "foldase_web/static/index.html" in names
    assert "foldase_workflows/catalog/contacts.yaml" in names
    assert not [name for name in names if name.endswith((".tsx", ".map")) or "node_modules" in name]
    assert not [name for name in names if "/tests/" in name]


def test_the_installed_wheel_lists_its_catalog(installed: Path, tmp_path: Path) -> None:
    program = (
        "import json; from foldase_workflows.spec import catalog;"
        "print(json.dumps([entry.name for entry in catalog()]))"
    )
    names = json.loads(_outside([str(installed / "python"), "-c", program], tmp_path))
    assert {"contacts", "couplings"} <= set(names)
    listed = _outside([str(installed / "foldase"), "plan", "contacts", "--json"], tmp_path)
    assert json.loads(listed)["steps"]


def test_the_installed_wheel_finds_the_folder_of_cuda_sources(installed: Path, tmp_path: Path) -> None:
    listed = _outside([str(installed / "python"), "-m", "foldase_kernels", "list"], tmp_path)
    folder = next(word for word in listed.split() if word.endswith("csrc"))
    assert Path(folder).is_dir()
    assert installed.parent in Path(folder).parents


@pytest.fixture
def platform_url(installed: Path, tmp_path: Path) -> Iterator[str]:
    home = tmp_path / "home"
    foldase = str(installed / "foldase")
    _outside([foldase, "up", "--home", str(home), "--background", "--no-open", "--port", "0"], tmp_path)
    try:
        yield json.loads((home / "server.json").read_text())["url"]
    finally:
        _outside([foldase, "down", "--home", str(home)], tmp_path)


def test_the_installed_wheel_opens_the_page(platform_url: str) -> None:
    page = httpx.get(platform_url, follow_redirects=True, timeout=30)
    assert page.status_code == 200
    assert '<div id="root">' in page.text
    assert httpx.get(f"{platform_url.rstrip('/')}/api/v1/health", timeout=30).json()["status"] == "ok"
