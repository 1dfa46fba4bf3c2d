"""``benchmarks/compressed.py`` without its measurements: verdicts, heavy tails, the link that it makes."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from compressed_cases import OWN_WORKER
from training_ranks import Gang

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import compressed
import compressed_exchange
import compressed_link
from figures import Row, rows_of

from foldase_models.training.collectives import Collectives

pytestmark = OWN_WORKER
FEW = 6


def verdicts(found):
    return [row.met for row in rows_of("a part", lambda: iter(found))]


def test_a_figure_may_have_to_lie_between_two_bounds():
    rows = [Row("link", "of it", figure, at_least=90, at_most=100) for figure in (89.0, 95.0, 101.0)]
    assert [row.met for row in rows] == [False, True, False]
    assert "| >= 90, <= 100 | met |" in rows[1].told()


@pytest.mark.parametrize(("bytes_sent", "met"), [(100.0, True), (104.0, False)])
def test_a_compressed_mean_that_sends_more_than_a_31st_misses_its_goal(bytes_sent, met):
    assert verdicts([compressed_exchange._volume([(90.0, 3200.0), (bytes_sent, 3200.0)])]) == [met]


@pytest.mark.parametrize(
    ("lost", "other", "met"), [(0.0, "one", [True, None, True]), (1e-3, "two", [False, None, False])]
)
def test_sums_that_lose_something_and_results_that_differ_miss_their_goals(lost, other, met):
    given = torch.ones(8, dtype=torch.float64)
    ranks = [
        {"given": given, "sent": 0.75 * given - lost, "own": 0.25 * given, "means": torch.zeros(4)},
        {
            "given": given,
            "sent": 0.75 * given - lost,
            "own": 0.125 * given,
            "means": torch.full((4,), 0.0625),
        },
    ]
    ranks[0] |= {"means": ranks[1]["means"], "digests": ["same", "one"]}
    ranks[1] |= {"digests": ["same", other]}
    assert verdicts(compressed_exchange._sums(ranks)) == met


def test_bytes_and_sums_of_real_ranks_meet_their_goals():
    numel = 2 * 8 * compressed_exchange.BLOCK
    with Gang(2) as gang:
        sent = gang.run(compressed_exchange.volume, numel)
        sums = gang.run(compressed_exchange.exchanges, numel, FEW)
    assert verdicts([compressed_exchange._volume(sent)]) == [True]
    assert sent[0][1] == 4 * numel
    assert verdicts(compressed_exchange._sums(sums)) == [True, None, True]


def test_errors_of_a_heavy_tail_shrink_and_with_root_mean_squares_they_grow_first():
    with Gang(2) as gang:
        once = gang.run(compressed_exchange.errors, FEW, False)[0]
        anew = gang.run(compressed_exchange.errors, FEW, True)[0]
    assert once[0] == 1.0
    assert all(after < before for before, after in itertools.pairwise(once))
    assert compressed_exchange.errors_by_root_mean_square(FEW, new=False)[1] > 1.2
    assert verdicts(compressed_exchange.heavy_tails(once, anew)) == [True] * 4 + [None] * 2


@pytest.mark.parametrize(
    ("kind", "seconds", "met"),
    [("zero_one_adam", 0.5, True), ("zero_one_adam", 0.51, False), ("one_bit_adam", 0.9, None)],
)
def test_steps_over_the_link_are_held_against_those_of_adamw(kind, seconds, met):
    plain = {"seconds": [1.0] * 10, "on_the_wire": 1000}
    found = {"seconds": [1.0] * 2 + [(10 * seconds - 2) / 8] * 8, "on_the_wire": 250}
    rows = list(compressed_link.beside(kind, found, plain, 2))
    assert verdicts(rows) == [met, None, None]
    assert [row["figure"] for row in rows] == pytest.approx([1 / seconds, 8 / (10 * seconds - 2), 0.25])


def test_a_link_that_hardly_holds_adamw_up_is_no_case_for_compression():
    found = {"seconds": [1.0, 1.0], "waiting": [0.6, 0.7], "counted": 100.0, "on_the_wire": 106}
    assert verdicts(compressed_link._waiting(found)) == [False, True]
    assert verdicts(compressed_link._waiting(found | {"waiting": [0.7, 0.8], "on_the_wire": 50})) == [
        True,
        False,
    ]


def ends_over_the_link(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compressed.py", "--parts", "link"])
    return compressed.main()


def test_without_the_tools_or_the_right_to_a_link_the_table_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ends_over_the_link(monkeypatch) == 1
    assert "needs unshare, nsenter, ip, tc (" in capsys.readouterr().out
    for tool in compressed_link.TOOLS:
        script = tmp_path / tool
        script.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
        script.chmod(0o755)
    for user, why in ((0, "unshare failed: Operation not permitted"), (1000, "it needs root")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert ends_over_the_link(monkeypatch) == 1
        assert f"no link to train over: {why} |  | >= 90 | **missed** |" in capsys.readouterr().out


def place_of(ranks, name):
    return os.umask(0), os.environ.get(name), os.environ["RANK"]


def test_ranks_of_a_gang_enter_their_place_and_have_its_environment():
    with Gang(2, environment={"ENVIRONMENT_OF_A_TEST": "here"}, enter=os.umask) as gang:
        found = gang.run(place_of, "ENVIRONMENT_OF_A_TEST")
    assert found == [(0, "here", "0"), (1, "here", "1")]


def test_a_rank_that_cannot_enter_its_place_ends():
    with Gang(2, enter=os.fspath) as gang:
        outcomes = gang.outcomes(place_of, "PATH")
    assert [outcome.exit_code for outcome in outcomes] == [1, 1]


needs_link = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, compressed_link.TOOLS)),
    reason="needs root, util-linux and iproute2",
)


def network_and_sum(ranks):
    number = torch.tensor([1.0 + ranks.rank])
    collectives = Collectives(ranks)
    collectives.all_reduce("number", number).wait()
    collectives.close()
    return str(Path("/proc/self/ns/net").readlink()), float(number)


@needs_link
@pytest.mark.verify
def test_ranks_are_joined_by_the_link_alone_and_nothing_of_it_remains():
    environment = {
        "MASTER_ADDR": compressed_link.ADDRESSES[0],
        "GLOO_SOCKET_IFNAME": compressed_link.INTERFACE,
    }
    with compressed_link.slow_link() as holders:
        for holder in holders:
            entering = ["nsenter", f"--net=/proc/{holder}/ns/net"]
            told = subprocess.run(
                [*entering, "tc", "qdisc"], capture_output=True, text=True, check=True
            ).stdout
            assert f"dev {compressed_link.INTERFACE} root" in told
            assert "rate 100Mbit" in told
        with Gang(2, environment=environment, enter=partial(compressed_link.enter, holders)) as gang:
            found = gang.run(network_and_sum)
    own = str(Path("/proc/self/ns/net").readlink())
    assert len({own, *(network for network, _ in found)}) == 3
    assert [total for _, total in found] == [3.0, 3.0]
    assert not any(Path(f"/proc/{holder}").exists() for holder in holders)
    listed = subprocess.run(
        ["lsns", "-t", "net", "-n", "-o", "NS"], capture_output=True, text=True, check=True
    )
    assert not {network.partition("[")[2].rstrip("]") for network, _ in found} & set(listed.stdout.split())


@needs_link
@pytest.mark.verify
def test_nothing_of_the_link_remains_after_a_failure(monkeypatch):
    seen = []

    def failing(holder, command):
        seen.append(holder)
        raise compressed_link.LinkRefused("tc: Error: Specified qdisc kind is unknown.")

    monkeypatch.setattr(compressed_link, "_inside", failing)
    [row] = compressed_link.link()
    assert row["figure"] is None
    assert "qdisc kind is unknown" in row["what"]
    assert not Path(f"/proc/{seen[0]}").exists()


@needs_link
@pytest.mark.verify
def test_all_three_optimizers_train_over_the_link(monkeypatch):
    monkeypatch.setattr(compressed_link, "PROBE_BYTES", 1 << 20)
    rows = list(compressed_link.link(steps=8, frozen=2))
    assert len(rows) == 3 + 2 * 3
    assert all(row["figure"] > 0 for row in rows)
    assert [row["figure"] < 1 for row in rows if row["what"].endswith("bytes on the wire, of adamw's")] == [
        True
    ] * 2
