"""Order and circles of the graph of steps, without recursion: chains may be thousands of steps long."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def topological(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The steps so that each comes after those it needs; free ones in the order of the document.

    Steps on or behind a circle are left out.
    """
    place = {name: index for index, name in enumerate(needs)}
    waiting = {name: len(set(wanted)) for name, wanted in needs.items()}
    needed_by: dict[str, list[str]] = {name: [] for name in needs}
    for name, wanted in needs.items():
        for other in set(wanted):
            needed_by[other].append(name)
    free = [place[name] for name, count in waiting.items() if count == 0]
    heapq.heapify(free)
    names, order = list(needs), []
    while free:
        name = names[heapq.heappop(free)]
        order.append(name)
        for other in needed_by[name]:
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(free, place[other])
    return order


def circles(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """One circle for each group of steps that wait for each other: ``[a, b, a]`` where a needs b needs a."""
    ordered = set(topological(needs))
    left = {
        name: [other for other in wanted if other not in ordered]
        for name, wanted in needs.items()
        if name not in ordered
    }
    return [
        _circle_in(group, left) for group in _groups(left) if len(group) > 1 or group[0] in left[group[0]]
    ]


def _circle_in(group: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Walk inside a strongly connected group until a step comes again."""
    members = set(group)
    places: dict[str, int] = {}
    path: list[str] = []
    name = group[0]
    while name not in places:
        places[name] = len(path)
        path.append(name)
        name = next(other for other in needs[name] if other in members)
    return [*path[places[name] :], name]


def _groups(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The strongly connected components, by Kosaraju's two searches."""
    needed_by: dict[str, list[str]] = {name: [] for name in needs}
    for name, wanted in needs.items():
        for other in wanted:
            needed_by[other].append(name)
    place = {name: index for index, name in enumerate(needs)}
    finished = _search(needs, list(needs))
    last_first = [name for found in finished for name in found][::-1]
    groups = [sorted(found, key=place.__getitem__) for found in _search(needed_by, last_first)]
    return sorted(groups, key=lambda found: place[found[0]])


def _search(edges: Mapping[str, Sequence[str]], starts: Sequence[str]) -> list[list[str]]:
    """Depth first from each start not yet seen; the steps that each search met, as they were finished."""
    seen: set[str] = set()
    trees: list[list[str]] = []
    for start in starts:
        if start in seen:
            continue
        seen.add(start)
        finished: list[str] = []
        stack = [(start, iter(edges[start]))]
        while stack:
            name, following = stack[-1]
            other = next((found for found in following if found not in seen), None)
            if other is None:
                finished.append(name)
                stack.pop()
            else:
                seen.add(other)
                stack.append((other, iter(edges[other])))
        trees.append(finished)
    return trees
