"""Where the ranks of a gang go on a cluster whose nodes come and go; no Ray runs."""

from __future__ import annotations

from typing import Any

import pytest

from foldase.runtime import gang_worker
from foldase.runtime.gang_life import NoRoom
from foldase.runtime.gang_worker import RayHosts
from foldase_workflows.contracts.failures import Cause


class FakeGroup:
    """A placement group; ``ready`` is whether Ray finds the places."""

    ready = True
    made: list[FakeGroup] = []
    removed: list[FakeGroup] = []

    def __init__(self, bundles: list[dict[str, float]], **options: Any) -> None:
        self.bundles, self.options = bundles, options
        FakeGroup.made.append(self)

    def wait(self, seconds: float) -> bool:
        return self.ready


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    nodes = {"n", "m"}
    FakeGroup.made, FakeGroup.removed, FakeGroup.ready = [], [], True
    monkeypatch.setattr(gang_worker, "_living_nodes", lambda: nodes)
    monkeypatch.setattr(gang_worker, "placement_group", FakeGroup)
    monkeypatch.setattr(gang_worker, "remove_placement_group", FakeGroup.removed.append)
    monkeypatch.setattr(RayHosts, "_actor", lambda self, rank, node: (rank, node))
    return nodes


def end(hosts: RayHosts) -> None:
    hosts._ranks = []  # what stands for actors here cannot be killed


def test_the_places_are_those_that_the_fleet_has_chosen(living: set[str]) -> None:
    hosts = RayHosts("w", 0.5, 1.0, ("n", "n", "m"))
    assert hosts.start(3, within_seconds=1) == [(0, "n"), (1, "n"), (2, "m")]
    (group,) = FakeGroup.made
    assert group.bundles == [{"CPU": 0.5, "GPU": 1.0}] * 3
    assert group.options["strategy"] == "PACK"
    chosen = [selector["ray.io/node-id"] for selector in group.options["bundle_label_selector"]]
    assert chosen == ["n", "n", "m"]
    RayHosts("w", 0.5, 0.0, ("m", "m")).start(2, within_seconds=1)
    assert FakeGroup.made[1].options["strategy"] == "STRICT_PACK"
    assert FakeGroup.made[1].bundles == [{"CPU": 0.5}] * 2


def test_a_later_life_keeps_the_places_while_their_nodes_live(living: set[str]) -> None:
    hosts = RayHosts("w", 1, 0, ("n", "n", "m"))
    hosts.start(3, within_seconds=1)
    end(hosts)
    hosts.start(3, within_seconds=1)
    end(hosts)
    assert (len(FakeGroup.made), FakeGroup.removed) == (1, [])
    living.remove("m")
    with pytest.raises(NoRoom) as full:
        hosts.start(3, within_seconds=1)
    assert full.value.room == 2
    assert hosts.start(2, within_seconds=1) == [(0, "n"), (1, "n")]
    assert FakeGroup.removed == FakeGroup.made[:1]
    end(hosts)
    hosts.close()
    assert FakeGroup.removed == FakeGroup.made


def test_places_that_are_not_to_be_had_in_time_are_given_back(living: set[str]) -> None:
    FakeGroup.ready = False
    hosts = RayHosts("w", 1, 0, ("n", "m"))
    with pytest.raises(NoRoom):
        hosts.start(2, within_seconds=0)
    assert FakeGroup.removed == FakeGroup.made


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "The actor died. Worker exit detail: Worker unexpectedly exits with a connection error code 2.",
            Cause.WORKER_LOST,
        ),
        ("Worker exit detail: Task was killed due to the node running low on memory. More", Cause.OOM_HOST),
        (
            "The actor died because its node has died. Node Id: 7. the actor's node was terminated",
            Cause.NODE_LOST,
        ),
    ],
)
def test_how_a_rank_ended_is_read_from_what_ray_says(text: str, cause: Cause) -> None:
    assert RayHosts("w", 1, 0, ("n",)).why(RuntimeError(text))[0] is cause
