"""A local Ray cluster of our own: private, on loopback, with a token, and nothing of it left behind.

The token and Ray's files are never those of the user: a bare ``ray.init()`` of somebody else neither finds
this cluster nor is disturbed by it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foldase.runtime.machine import this_machine
from foldase.runtime.processes import ProcessId, alive, kill_all, with_environment
from foldase.runtime.settings import CLUSTER_VARIABLE, NAMESPACE
from foldase_workflows.contracts.errors import Unavailable

logger = logging.getLogger(__name__)

START_TRIES = 4
OBJECT_STORE_BYTES = 256 << 20
"""Results never travel through Ray's object store, so it stays small."""

_SPARED_BYTES = 2 << 30
"""Memory that the platform itself needs: Ray's own processes, the database, the web server."""

_TEMPORARY = "/tmp"  # noqa: S108  # Ray's sockets need a path of at most 107 bytes, whatever TMPDIR says


@dataclass(frozen=True, slots=True)
class Record:
    """What has to be known to clean up after a crash: ``<home>/runtime.json``."""

    cluster: str
    temporary: str
    processes: tuple[str, ...] = ()


def record_path(home: Path) -> Path:
    """Where the record lies."""
    return home / "runtime.json"


def dashboard_path(home: Path) -> Path:
    """Where the web server finds the dashboard and its token."""
    return home / "ray.json"


def write_private(path: Path, value: Any) -> None:
    """Write JSON so that readers see the old or the new file, and only the owner sees it at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
    temporary.replace(path)


def write_record(home: Path, record: Record) -> None:
    """Remember what belongs to the cluster."""
    write_private(record_path(home), asdict(record))


def clean_up(home: Path) -> int:
    """End what a cluster of this state folder left running, remove its files; returns how many processes.

    Only processes that were recorded by pid and start time, or that carry the recorded cluster's random
    name in their environment, are touched.
    """
    dashboard_path(home).unlink(missing_ok=True)
    try:
        fields = json.loads(record_path(home).read_text(encoding="utf-8"))
        record = Record(str(fields["cluster"]), str(fields["temporary"]), tuple(fields["processes"]))
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("the record of the last cluster cannot be read: %s", error)
        return 0
    left = {ProcessId.parse(mark) for mark in record.processes}
    left = {process for process in left if alive(process)}
    left |= set(with_environment(CLUSTER_VARIABLE, record.cluster))
    if not kill_all(left):
        logger.error("processes of the last cluster cannot be ended: %s", sorted(one.pid for one in left))
    folder = Path(record.temporary)
    # A record can be forged by whoever can write the state folder; only folders that we could have made go.
    if folder.parent == Path(_TEMPORARY) and folder.name.startswith("foldase-"):
        shutil.rmtree(folder, ignore_errors=True)
    record_path(home).unlink(missing_ok=True)
    return len(left)


def prepare_environment(home: Path, cluster: str) -> None:
    """Set what our own Ray reads from the environment; before Ray is imported."""
    token = home / "ray-token"
    if not token.exists():
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR"):
        os.environ.pop(name, None)
    os.environ.update(
        {
            CLUSTER_VARIABLE: cluster,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            # This makes the node's address 127.0.0.1; only then do Ray's servers listen there alone.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Short memory is our business: Ray's monitor would end the scheduler together with the culprit.
            "RAY_memory_monitor_refresh_ms": "0",
            # The kernel's last resort shall hit workers, which ask for it themselves.
            "RAY_worker_oom_score_adjustment": "0",
            "PYTHONUNBUFFERED": "1",
        }
    )


def connect_ray(home: Path, address: str) -> None:
    """Connect to a Ray that somebody else runs, with the token of the caller's environment.

    Every node must see the state folder under the same path, and have the same software.

    Raises:
        Unavailable: nobody answers there, or not to us.
    """
    import ray  # after the environment is set

    try:
        context = ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except Exception as failure:
        raise Unavailable(f"no Ray at {address}: {failure}", code="cluster_start_failed") from failure
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token and path:
        token = Path(path).read_text(encoding="ascii").strip()
    _note_dashboard(home, context.dashboard_url, token)


def _note_dashboard(home: Path, url: str | None, token: str) -> None:
    if url:
        write_private(dashboard_path(home), {"dashboard": f"http://{url}", "token": token})


def start_ray(
    home: Path, cluster: str, *, cpus: float | None = None, dashboard_port: int | None = None
) -> Path:
    """Start Ray on this machine and connect to it.

    Args:
        home: the state folder.
        cluster: the random name of this cluster.
        cpus: cores for steps; all of this machine where nothing is given.
        dashboard_port: a fixed port; the first free one from 8265 on where nothing is given.

    Returns:
        The temporary folder of Ray.

    Raises:
        Unavailable: Ray did not start in several tries.
    """
    import ray  # after the environment is set

    machine = this_machine()
    memory = max(machine.memory_bytes // 2, machine.memory_bytes - _SPARED_BYTES - OBJECT_STORE_BYTES)
    error: Exception | None = None
    for attempt in range(START_TRIES):
        temporary = Path(tempfile.mkdtemp(prefix="foldase-", dir=_TEMPORARY))
        write_record(home, Record(cluster, str(temporary)))
        try:
            context = ray.init(
                address="local",
                namespace=NAMESPACE,
                num_cpus=int(cpus or machine.cpus),
                num_gpus=len(machine.gpus),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=dashboard_port,
                log_to_driver=False,
                configure_logging=False,
                _memory=memory,
                # Ray opens its folder to everybody; the one around it is ours alone.
                _temp_dir=str(temporary / "r"),
            )
        # Ray gives up after a fixed 30 s, which a loaded machine may need; it says so in many ways.
        except Exception as failure:  # noqa: BLE001
            error = failure
            logger.warning("Ray did not start (try %d of %d): %s", attempt + 1, START_TRIES, failure)
            ray.shutdown()
            shutil.rmtree(temporary, ignore_errors=True)
            time.sleep(1.0 + attempt)
            continue
        token = (home / "ray-token").read_text(encoding="ascii").strip()
        _note_dashboard(home, context.dashboard_url, token)
        return temporary
    raise Unavailable(f"Ray did not start: {error}", code="cluster_start_failed")
