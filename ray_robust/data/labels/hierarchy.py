"""A pool's classes in a hierarchy: one path for each, all subtrees by name, and distances in the tree.

Defines how a graph with several parents becomes one path per class, how its nodes are named, and tree distance; fills
`Catalog.hierarchy` (ranks) and `Catalog.below` (the classes of every subtree).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ray_robust.data.labels.wordnet import IsA, read_hierarchy
from ray_robust.data.pool import Catalog
from ray_robust.errors import UserError


def attach_hierarchy(catalog: Catalog, option: str) -> Catalog:
    """Return the catalog with the hierarchy that `hierarchy: option` names (see `wordnet.read_hierarchy`).

    Classes are nodes of it (n02084071) or words that one node alone has. The ranks are `depth 1` (below the common
    root) to the deepest class; a class that ends earlier stands for itself. Of several parents the path goes by the
    one nearest to the root, of several such by the first by name; `below` counts a class under all of them. A node is
    called by its first word, with its id behind it where another node is called so as well.

    Raises UserError with the classes that are not in it.
    """
    isa = read_hierarchy(option)
    nodes = _nodes_of(catalog.classes, isa)
    above = {node: _all_above(node, isa) for node in nodes}
    names = _names(catalog.classes, nodes, above.values(), isa)
    paths = _paths(nodes, isa)
    if len({path[0] for path in paths}) == 1 and all(len(path) > 1 for path in paths):
        paths = [path[1:] for path in paths]  # the root that all share says nothing
    deepest = max(map(len, paths))
    rows = [[names[path[min(i, len(path) - 1)]] for i in range(deepest)] for path in paths]
    ranks = pd.DataFrame(rows, index=list(catalog.classes), columns=[f"depth {i + 1}" for i in range(deepest)])
    below = _below(nodes, above, names, isa)
    digest = hashlib.blake2b(f"{catalog.fingerprint}|{rows}".encode(), digest_size=8)
    for name in sorted(below):
        digest.update(name.encode() + below[name].tobytes())
    called = tuple(isa.words.get(node, (name,))[0] for node, name in zip(nodes, catalog.classes, strict=True))
    own = catalog.names or (called if called != catalog.classes else ())
    return replace(catalog, hierarchy=ranks, below=below, fingerprint=digest.hexdigest(), names=own)


def subtrees(catalog: Catalog) -> Mapping[str, np.ndarray]:
    """Return the classes (indices, ascending) below every node, by each of its names; a class is below itself.

    A name that stands at several places in the ranks means all of them.
    """
    below: dict[str, np.ndarray] = {}
    if catalog.below is not None:
        below |= catalog.below
    elif catalog.hierarchy is not None:
        for rank in reversed(catalog.hierarchy.columns):
            for name, rows in catalog.hierarchy.groupby(rank, sort=False).indices.items():
                below[str(name)] = np.union1d(rows, below.get(str(name), rows))
    return {name: np.array([i]) for name, i in class_index(catalog).items()} | below


def class_index(catalog: Catalog) -> dict[str, int]:
    """Return every class by its name, and by what people call it where they call no other class so."""
    count = Counter(catalog.names)
    called = {name: i for i, name in enumerate(catalog.names) if count[name] == 1}
    return called | {name: i for i, name in enumerate(catalog.classes)}


def distances(catalog: Catalog, to: np.ndarray) -> np.ndarray:
    """Return edges in the tree from every class to the nearest of the classes `to` (indices), int64.

    Along the ranks, in which an ancestor that repeats is one node; without a hierarchy all classes are children of one
    root.
    """
    paths = tree_paths(catalog)
    best: dict[tuple, int] = {}  # of every node: the way down to the nearest of `to`
    for i in to:
        path = paths[i]
        for depth in range(len(path) + 1):
            node, down = path[:depth], len(path) - depth
            best[node] = min(best.get(node, down), down)
    far = len(catalog.classes) + 2
    return np.array([
        min((len(path) - depth + best.get(path[:depth], far) for depth in range(len(path) + 1)), default=0)
        for path in paths
    ], dtype=np.int64)  # fmt: skip


def tree_paths(catalog: Catalog) -> list[tuple[str, ...]]:
    """Return every class's way down from the root, itself last, without the root."""
    if catalog.hierarchy is None:
        return [(name,) for name in catalog.classes]
    rows = catalog.hierarchy.to_numpy(object)
    return [tuple(dict.fromkeys((*map(str, row), name))) for row, name in zip(rows, catalog.classes, strict=True)]


def _nodes_of(classes: tuple[str, ...], isa: IsA) -> list[str]:
    by_word = defaultdict(list)
    if not all(name in isa.parents for name in classes):
        for node, words in isa.words.items():
            for word in dict.fromkeys(word.lower() for word in words):
                by_word[word].append(node)
    nodes, problems = [], []
    for name in classes:
        candidates = [name] if name in isa.parents else by_word.get(name.replace("_", " ").lower(), [])
        if len(candidates) == 1:
            nodes.append(candidates[0])
        elif candidates:
            some = ", ".join(candidates[:3]) + (", ..." if len(candidates) > 3 else "")
            what = f"class {name!r} is the name of {len(candidates)} nodes of {isa.where} ({some})"
            problems.append(f"{what}; name the class by its id")
        else:
            problems.append(f"class {name!r} is not in {isa.where}")
    if len(problems) > 5:
        problems = [*problems[:5], f"and {len(problems) - 5} more classes"]
    if problems:
        raise UserError(*problems)
    node, count = Counter(nodes).most_common(1)[0]
    if count > 1:
        twice = [name for name, other in zip(classes, nodes, strict=True) if other == node]
        raise UserError(
            f"classes {' and '.join(map(repr, twice))} are the same node of {isa.where}, {node}; merge them"
        )
    return nodes


def _all_above(node: str, isa: IsA) -> set[str]:
    """Return the node and all its ancestors."""
    ancestors, todo = {node}, [node]
    while todo:
        for parent in isa.parents.get(todo.pop(), ()):
            if parent not in ancestors:
                ancestors.add(parent)
                todo.append(parent)
    return ancestors


def _paths(nodes: list[str], isa: IsA) -> list[tuple[str, ...]]:
    """Return the shortest way from a root to every node."""
    shortest_to: dict[str, tuple[str, ...]] = {}

    def path(node: str, entered: frozenset[str] = frozenset()) -> tuple[str, ...]:
        if node in entered:
            raise UserError(f"hierarchy: in {isa.where} {node} is above itself")
        if node not in shortest_to:
            ways = [path(parent, entered | {node}) for parent in isa.parents.get(node, ())]
            shortest = min(ways, key=lambda way: (len(way), isa.words.get(way[-1], way[-1:])[0], way[-1]), default=())
            shortest_to[node] = (*shortest, node)
        return shortest_to[node]

    return [path(node) for node in nodes]


def _names(classes: tuple[str, ...], nodes: list[str], above: Iterable[set[str]], isa: IsA) -> dict[str, str]:
    """Return what every node of the tree is called: a class as its pool calls it, another by its first word."""
    own = dict(zip(nodes, classes, strict=True))
    called = {node: own.get(node) or isa.words.get(node, (node,))[0] for node in sorted(set().union(*above))}
    count = Counter(called.values())
    return {n: name if n in own or count[name] == 1 else f"{name} ({n})" for n, name in called.items()}


def _below(
    nodes: list[str], above: Mapping[str, set[str]], names: Mapping[str, str], isa: IsA
) -> dict[str, np.ndarray]:
    """Return the classes below every node, by its name, its id, and each of its words that could mean no other."""
    members = defaultdict(list)
    for i, node in enumerate(nodes):
        for ancestor in above[node]:
            members[ancestor].append(i)
    rows = {node: np.array(classes) for node, classes in members.items()}
    firsts, others = defaultdict(list), defaultdict(list)
    for node in rows:
        first, *more = isa.words.get(node, (node,))
        firsts[first].append(node)
        for word in dict.fromkeys(more):
            others[word].append(node)
    by_word = {word: rows[of[0]] for word, of in others.items() if len(of) == 1}
    by_word |= {word: rows[of[0]] for word, of in firsts.items() if len(of) == 1}
    for word, of in firsts.items():
        if len(of) > 1:
            by_word.pop(word, None)
    return by_word | {node: rows[node] for node in rows} | {names[node]: rows[node] for node in rows}
