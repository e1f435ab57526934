"""Tasks from a teacher's confusions: classes that it takes for one another belong together."""

from collections.abc import Sequence

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.tasks.spec import TaskSpec


def confusions(probabilities: Floats, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """Return how much of its answer a teacher gives to class b on images of class a (C, C), from (N, C) and (N,)."""
    C = probabilities.shape[1]
    found = np.zeros((C, C))
    np.add.at(found, labels, probabilities.astype(np.float64))
    return found / np.maximum(np.bincount(labels, minlength=C), 1)[:, None]


def group_classes(confused: Floats, names: Sequence[str], count: int) -> tuple[TaskSpec, ...]:
    """Return `count` tasks of sizes as even as can be, so that much of the confusion lies within them.

    Groups are begun greedily and bettered by exchanging two classes as long as that gains. A task is called by the
    class that is confused most with the others of its task, and how many those are: `oak_tree+4`.
    """
    C = len(names)
    alike = confused + confused.T
    np.fill_diagonal(alike, 0)
    others = alike.copy()
    np.fill_diagonal(others, -np.inf)  # a class is not its own neighbour
    sizes = [C // count + (i < C % count) for i in range(count)]
    groups: list[list[int]] = []
    left = list(range(C))
    for size in sizes:
        part = others[np.ix_(left, left)]
        nearest = np.argsort(-part, axis=1, kind="stable")[:, : size - 1]
        middle = int(np.take_along_axis(part, nearest, 1).sum(1).argmax())
        groups.append([left[i] for i in (middle, *nearest[middle])])
        left = [c for c in left if c not in groups[-1]]
    owner = np.empty(C, np.int64)
    for i, group in enumerate(groups):
        owner[group] = i
    _exchange(alike, owner)
    tasks, order = [], {name: i for i, name in enumerate(names)}
    for i in range(count):
        own = np.flatnonzero(owner == i)
        middle = own[alike[np.ix_(own, own)].sum(1).argmax()]
        rest = f"+{len(own) - 1}" if len(own) > 1 else ""
        tasks.append(TaskSpec(f"{names[int(middle)]}{rest}", tuple(names[int(c)] for c in own)))
    return tuple(sorted(tasks, key=lambda task: order[task.classes[0]]))


def _exchange(alike: Floats, owner: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Exchange pairs of classes between groups, the best first, while the confusion within groups grows, in place."""
    C = len(owner)
    each = np.arange(C)
    while True:
        within = np.stack([alike[:, owner == i].sum(1) for i in range(owner.max() + 1)], 1)  # (C, groups)
        own = within[each, owner]
        moved = within[:, owner]  # (C, C): what class a would have in the group of class b
        gain = moved + moved.T - own[:, None] - own[None] - 2 * alike
        gain[owner[:, None] == owner[None]] = 0
        a, b = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[a, b] <= 1e-9:
            return
        owner[a], owner[b] = owner[b], owner[a]
