"""The cluster as people see it."""

from __future__ import annotations

from foldase.store import Store
from foldase_web.schemas.system import Cluster

SILENCE_SECONDS = 30.0
"""A cluster that reported nothing for so long counts as lost."""


def read_cluster(store: Store) -> Cluster:
    """What the runtime last reported, or that it reports no more."""
    record = store.cluster.read()
    described = record.to_json()
    if not record.since:
        described["since"] = None
    silent = store.clock.now() - record.updated_at / 1000
    if record.updated_at and record.state in ("ready", "starting") and silent > SILENCE_SECONDS:
        described["state"] = "lost"
        described["message"] = f"the runtime has reported nothing for {silent:.0f} s"
    return Cluster.model_validate(described)
