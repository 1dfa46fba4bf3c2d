"""What a tick costs, in transactions and queries: counts, never seconds."""

from __future__ import annotations

from collections import Counter

import pytest

FAN = """
version: 1
name: fan
inputs: {n: {type: 'list[int]'}}
steps:
  item: {uses: test.add@1, each: {i: '${{ inputs.n }}'}, with: {a: '${{ each.i }}'}}
  join: {uses: test.add@1, with: {order: '${{ steps.item.each.sum }}'}}
"""


def chain(length: int) -> str:
    later = (
        f"  s{number}: {{uses: test.add@1, with: {{a: '${{{{ steps.s{number - 1}.sum }}}}', b: 1}}}}"
        for number in range(1, length)
    )
    first = "  s0: {uses: test.add@1, with: {a: 5, b: 9}}"
    return "\n".join(["version: 1", "name: chain", "steps:", first, *later, ""])


@pytest.fixture
def counted(lab, monkeypatch):
    """Counts the transactions of a laboratory."""
    counts: Counter[str] = Counter()
    for name in ("write", "read"):
        real = getattr(lab.store.database, name)

        def call(real=real, name=name):
            counts[name] += 1
            return real()

        monkeypatch.setattr(lab.store.database, name, call)
    return counts


def test_a_wide_step_costs_a_few_transactions(lab, counted):
    lab.executor.depth = 1000
    run = lab.submit(FAN, {"n": list(range(300))})
    counted.clear()
    lab.settle()
    assert lab.get(run).summary.state == "succeeded"
    # Claims; results; the last step; its result; and one with nothing left to say.
    assert counted["write"] <= 5
    run = lab.submit(FAN, {"n": list(range(300))})
    counted.clear()
    lab.settle()
    assert lab.get(run).summary.state == "succeeded"
    assert len(lab.executor.submitted) == 301
    assert counted["write"] <= 2


def test_a_chain_of_cached_steps_is_one_transaction_and_few_queries(lab, counted, monkeypatch):
    lab.run(chain(50))
    lab.restart()
    run = lab.submit(chain(50))
    from foldase.store.commits import CacheReader

    asked = Counter()
    for name in ("find", "siblings"):
        real = getattr(CacheReader, name)

        def call(self, given, real=real, name=name):
            asked[name] += 1
            return real(self, given)

        monkeypatch.setattr(CacheReader, name, call)
    counted.clear()
    lab.settle()
    assert lab.get(run).summary.state == "succeeded"
    assert counted["write"] <= 3
    assert asked == {"find": 1, "siblings": 1}


def test_a_tick_with_nothing_to_do_writes_nothing(lab, counted):
    lab.settle()
    counted.clear()
    for _ in range(10):
        lab.scheduler.tick()
    assert counted["write"] == 0
    assert counted["read"] == 10
