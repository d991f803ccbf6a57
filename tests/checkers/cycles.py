"""Cycles in a graph of what must come before what.

A cycle lies within one strongly connected component. Those are found without recursion, in one pass over the
edges: Tarjan, "Depth-First Search and Linear Graph Algorithms" (1972).
"""

from collections.abc import Iterator
from typing import Final

Edges = dict[int, dict[int, str]]
"""From one node to those that must come after it, and why."""

_STARTS_MAX: Final = 50
"""From so many nodes of a component the shortest way back is sought."""


def short_cycle(edges: Edges) -> list[int]:
    """A short one, not always the shortest, in order; empty if there is none."""
    for component in _components(edges):
        if len(component) > 1:
            inside = set(component)
            starts = sorted(component)[:_STARTS_MAX]
            return min((_shortest_cycle_through(start, edges, inside) for start in starts), key=len)
    return []


def _components(edges: Edges) -> Iterator[list[int]]:
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: dict[int, None] = {}
    for root in edges:
        if root in index:
            continue
        work = [(root, iter(edges[root]))]
        index[root] = low[root] = len(index)
        on_stack[root] = None
        while work:
            node, following = work[-1]
            for each in following:
                if each not in index:
                    index[each] = low[each] = len(index)
                    on_stack[each] = None
                    work.append((each, iter(edges.get(each, ()))))
                    break
                if each in on_stack:
                    low[node] = min(low[node], index[each])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    yield _popped(on_stack, node)


def _popped(on_stack: dict[int, None], node: int) -> list[int]:
    component: list[int] = []
    while not component or component[-1] != node:
        component.append(on_stack.popitem()[0])
    return component


def _shortest_cycle_through(start: int, edges: Edges, inside: set[int]) -> list[int]:
    came_from: dict[int, int] = {}
    queue = [start]
    for node in queue:
        for each in edges.get(node, ()):
            if each == start:
                cycle = [node]
                while cycle[-1] != start:
                    cycle.append(came_from[cycle[-1]])
                return cycle[::-1]
            if each in inside and each not in came_from:
                came_from[each] = node
                queue.append(each)
    raise AssertionError("a component without a cycle")
