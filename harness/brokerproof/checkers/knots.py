"""Knots of a directed graph: nodes of which each leads to each other, and so lie on a cycle."""

from __future__ import annotations

import numpy as np

from brokerproof.checkers.numbers import by_value, distinct
from brokerproof.history import Array


def knots(when: Array, source: Array, target: Array) -> Array:
    """The number of the knot that each node lies in, -1 for those on no cycle. Nodes are 0 … len(when) - 1.

    when: any number per node that mostly rises along the edges. A cycle has to come back somewhere, so all of it lies
    within what edges that do not rise span, or spans that overlap; only that is walked node by node (Tarjan's
    algorithm). O(edges log edges), and O(edges in those spans) of the slow kind.

        when   1 --> 2 --> 3 --> 4 --> 5
                     ^___________|            2, 3 and 4 are walked, 1 and 5 are not
    """
    out = np.full(len(when), -1, dtype=np.int64)
    apart = source != target
    source, target = source[apart], target[apart]
    order = np.argsort(when, kind="stable")
    place = np.empty(len(when), dtype=np.int64)
    place[order] = np.arange(len(when))
    back = place[target] < place[source]
    if not back.any():
        return out
    # Whether the gap behind each place is spanned by an edge that leads back.
    spanned = np.zeros(len(when) + 1, dtype=np.int64)
    np.add.at(spanned, place[target[back]], 1)
    np.add.at(spanned, place[source[back]], -1)
    stretch = np.cumsum(np.concatenate([[0], np.cumsum(spanned)[: len(when) - 1] == 0]))[place]
    returning = np.zeros(int(stretch.max()) + 1, dtype=bool)
    returning[stretch[source[back]]] = True
    inside = (stretch[source] == stretch[target]) & returning[stretch[source]]
    edges = distinct(source[inside] * len(when) + target[inside])
    for number, members in enumerate(_tarjan(edges // len(when), edges % len(when))):
        out[members] = number
    return out


def _tarjan(source: Array, target: Array) -> list[list[int]]:
    """Strongly connected components of more than one node; no recursion, since a cycle may be long.

    Source: R. E. Tarjan, Depth-first search and linear graph algorithms, SIAM J. Comput. 1 (1972) 146.
    """
    follows = {node: target[places].tolist() for node, places in by_value(source)}
    depth: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    out: list[list[int]] = []
    for root in follows:
        if root in depth:
            continue
        depth[root] = low[root] = len(depth)
        stack.append(root)
        on_stack.add(root)
        path = [(root, iter(follows[root]))]
        while path:
            node, rest = path[-1]
            for there in rest:
                if there not in depth:
                    depth[there] = low[there] = len(depth)
                    stack.append(there)
                    on_stack.add(there)
                    path.append((there, iter(follows.get(there, ()))))
                    break
                if there in on_stack:
                    low[node] = min(low[node], depth[there])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == depth[node]:
                    at = len(stack) - 1
                    while stack[at] != node:
                        at -= 1
                    members = stack[at:]
                    del stack[at:]
                    on_stack.difference_update(members)
                    if len(members) > 1:
                        out.append(members)
    return out
