"""The lease: one holder, replaced when it is silent or gone, and fenced when it comes back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from foldase.store import Changes, LeaseLost, Store
from foldase.store.leases import TERM_SECONDS


def test_one_holder_at_a_time(store):
    mine = store.leases.acquire("scheduler", "me")
    assert mine is not None
    assert store.leases.acquire("scheduler", "me") == mine
    assert store.leases.acquire("scheduler", "you") is None
    assert store.leases.acquire("other", "you") is not None
    store.leases.release(mine)
    yours = store.leases.acquire("scheduler", "you")
    assert yours is not None
    assert yours.fence > mine.fence


def test_who_shows_signs_of_life_keeps_it_whatever_the_wall_clock_says(store, clock):
    mine = store.leases.acquire("scheduler", "me")
    for _ in range(10):
        assert store.leases.acquire("scheduler", "you") is None
        clock.advance(TERM_SECONDS * 0.9)
        store.commits.commit(mine, Changes(), -5_000_000)
    assert store.leases.acquire("scheduler", "you") is None


def test_the_silent_are_replaced_and_cannot_write_any_more(store, clock):
    mine = store.leases.acquire("scheduler", "me")
    assert store.leases.acquire("scheduler", "you") is None
    clock.advance(TERM_SECONDS - 0.5)
    assert store.leases.acquire("scheduler", "you") is None
    clock.advance(1)
    yours = store.leases.acquire("scheduler", "you")
    assert yours is not None
    with pytest.raises(LeaseLost):
        store.commits.commit(mine, Changes(), 0)
    store.commits.commit(yours, Changes(), 0)
    # Releasing what one does not hold any more must not free it.
    store.leases.release(mine)
    store.commits.commit(yours, Changes(), 0)


def test_a_holder_whose_process_died_is_replaced_at_once(home, clock):
    script = (
        "import sys; from pathlib import Path; from foldase.store import Store\n"
        "assert Store.at(Path(sys.argv[1])).leases.acquire('scheduler', 'dead')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(home)], check=True, timeout=60)
    store = Store.at(home, clock=clock)
    assert store.leases.acquire("scheduler", "me") is not None
    store.close()
