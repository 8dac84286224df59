"""The family of a task as a drawing: parents left of their children, lines between them.

Pure functions. Equal siblings (same name, same parents, same children) are drawn as one box with a
count, so that a fan of ten thousand tasks is as readable as one of five.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

BOX_WIDTH = 190
BOX_HEIGHT = 44
GAP_X = 56
GAP_Y = 14
MARGIN = 8
_ALIKE = 5
"""So many equal siblings are still drawn one by one."""
_MOST_BOXES = 120
_SWEEPS = 4


class Member(Protocol):
    """What is drawn of a task."""

    @property
    def id(self) -> UUID: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...


@dataclass(slots=True)
class Box:
    """A box of the drawing: one task, or several equal ones. `id` is that of the first."""

    id: UUID
    name: str
    state: str
    marked: bool
    states: dict[str, int]
    x: int = 0
    y: int = 0
    shares: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many tasks it stands for."""
        return sum(self.states.values())

    @property
    def words(self) -> str:
        """Its state, or those of its tasks."""
        if self.size == 1:
            return self.state
        return ", ".join(f"{number:,} {state}" for state, number in self.states.items())


@dataclass(frozen=True, slots=True)
class Drawing:
    """Boxes and lines. `left_out` counts the boxes that there was no room for."""

    boxes: list[Box]
    lines: list[str]
    width: int
    height: int
    left_out: int


def draw(members: Sequence[Member], links: Iterable[tuple[UUID, UUID]], marked: UUID) -> Drawing:
    """Lay a family out. `links` are pairs (parent, child); others than members are ignored."""
    known = {member.id: member for member in members}
    edges = [(above, below) for above, below in links if above in known and below in known]
    boxes, merged_edges = _merge(known, edges, marked)
    left_out = max(0, len(boxes) - _MOST_BOXES)
    if left_out:
        boxes = _nearest(boxes, merged_edges, marked)
        merged_edges = {edge for edge in merged_edges if edge[0] in boxes and edge[1] in boxes}
    layers = _ordered(_layers(list(boxes), merged_edges), merged_edges)
    tallest = max((len(layer) for layer in layers), default=1)
    height = 2 * MARGIN + tallest * (BOX_HEIGHT + GAP_Y) - GAP_Y
    for column, layer in enumerate(layers):
        taken = len(layer) * (BOX_HEIGHT + GAP_Y) - GAP_Y
        for row, id in enumerate(layer):
            box = boxes[id]
            box.x = MARGIN + column * (BOX_WIDTH + GAP_X)
            box.y = (height - taken) // 2 + row * (BOX_HEIGHT + GAP_Y)
            box.shares = _shares(box.states)
    return Drawing(
        boxes=[boxes[id] for layer in layers for id in layer],
        lines=[_curve(boxes[above], boxes[below]) for above, below in sorted(merged_edges)],
        width=2 * MARGIN + len(layers) * (BOX_WIDTH + GAP_X) - GAP_X,
        height=height,
        left_out=left_out,
    )


def _merge(
    known: Mapping[UUID, Member], edges: Sequence[tuple[UUID, UUID]], marked: UUID
) -> tuple[dict[UUID, Box], set[tuple[UUID, UUID]]]:
    parents: defaultdict[UUID, set[UUID]] = defaultdict(set)
    children: defaultdict[UUID, set[UUID]] = defaultdict(set)
    for above, below in edges:
        parents[below].add(above)
        children[above].add(below)
    alike: defaultdict[Hashable, list[UUID]] = defaultdict(list)
    for member in known.values():
        alone = member.id == marked or not (parents[member.id] or children[member.id])
        kin = (frozenset(parents[member.id]), frozenset(children[member.id]))
        alike[member.id if alone else (member.name, *kin)].append(member.id)
    stands_in: dict[UUID, UUID] = {}
    boxes: dict[UUID, Box] = {}
    for ids in alike.values():
        for group in [ids] if len(ids) > _ALIKE else [[id] for id in ids]:
            first = known[group[0]]
            states = Counter(known[id].state for id in group)
            boxes[first.id] = Box(
                first.id, first.name, first.state, first.id == marked, dict(states.most_common())
            )
            stands_in.update((id, first.id) for id in group)
    return boxes, {(stands_in[above], stands_in[below]) for above, below in edges}


def _nearest(
    boxes: Mapping[UUID, Box], edges: Iterable[tuple[UUID, UUID]], marked: UUID
) -> dict[UUID, Box]:
    """The boxes nearest to the marked one, as many as are drawn."""
    beside: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for above, below in sorted(edges):
        beside[above].append(below)
        beside[below].append(above)
    found = [marked]
    seen = {marked}
    for id in found:
        fresh = [each for each in beside[id] if each not in seen]
        seen.update(fresh)
        found.extend(fresh)
    return {id: boxes[id] for id in found[:_MOST_BOXES]}


def _layers(ids: Sequence[UUID], edges: Iterable[tuple[UUID, UUID]]) -> list[list[UUID]]:
    """Each box one layer right of the last of its parents."""
    waits = dict.fromkeys(ids, 0)
    below: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for parent, child in edges:
        waits[child] += 1
        below[parent].append(child)
    depth = dict.fromkeys(ids, 0)
    free = [id for id in ids if not waits[id]]
    for id in free:
        for child in below[id]:
            depth[child] = max(depth[child], depth[id] + 1)
            waits[child] -= 1
            if not waits[child]:
                free.append(child)
    # What is left is in a circle. None can be enqueued, but rows can be forged: drawn where it is.
    layers: list[list[UUID]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for id in ids:
        layers[depth[id]].append(id)
    return layers


def _ordered(layers: list[list[UUID]], edges: Iterable[tuple[UUID, UUID]]) -> list[list[UUID]]:
    """Each layer sorted by where its neighbours are, so that few lines cross."""
    above: defaultdict[UUID, list[UUID]] = defaultdict(list)
    below: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for parent, child in edges:
        above[child].append(parent)
        below[parent].append(child)
    for sweep in range(_SWEEPS):
        place = {id: row / len(layer) for layer in layers for row, id in enumerate(layer)}
        beside = above if sweep % 2 == 0 else below
        for layer in layers:
            layer.sort(
                key=lambda id: (
                    sum(place[each] for each in beside[id]) / len(beside[id])
                    if beside[id]
                    else place[id]
                )
            )
    return layers


def _shares(states: Mapping[str, int]) -> list[tuple[str, float, float]]:
    """The states of a box as parts of a bar: (state, x, width)."""
    total = sum(states.values())
    x = 0.0
    parts = []
    for state, number in states.items():
        width = number / total * (BOX_WIDTH - 20)
        parts.append((state, round(10 + x, 1), round(width, 1)))
        x += width
    return parts


def _curve(above: Box, below: Box) -> str:
    x1, y1 = above.x + BOX_WIDTH, above.y + BOX_HEIGHT // 2
    x2, y2 = below.x, below.y + BOX_HEIGHT // 2
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
