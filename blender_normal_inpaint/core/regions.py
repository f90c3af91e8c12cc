"""Which pieces of a map to cut out: each hole with the context that its repair needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray
from .resample import block_any

#: Longest side of the texels repaired at one time, and of the crop around them. They bound the memory:
#: a crop of 2048 x 2048 needs 50 MB for each copy of its normals.
TILE = 1536
CROP = 2048

#: Native texels around a hole at least, for its detail to be continued from.
MARGIN = 96

#: Side of the coarser context, in its own texels.
CONTEXT = 512

#: Holes that all fit into a box of this side are repaired together.
TOGETHER = 384


@dataclass(frozen=True)
class Box:
    """A rectangle of texels: rows top to bottom, columns left to right, ends not included."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as an index of the map's first two axes."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def union(self, other: Box) -> Box:
        """The smallest box around both."""
        return Box(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def contains(self, other: Box) -> bool:
        """Whether the other box lies within this one."""
        return (
            self.top <= other.top
            and self.bottom >= other.bottom
            and self.left <= other.left
            and self.right >= other.right
        )

    def gap(self, other: Box) -> int:
        """Texels between the boxes along the axis that parts them most; zero or less if they touch."""
        down = max(self.top - other.bottom, other.top - self.bottom)
        across = max(self.left - other.right, other.left - self.right)
        return max(down, across)


@dataclass(frozen=True)
class Region:
    """One step of the job.

    The texels of the hole in `tile` are repaired from the native texels in `crop`; the network looks at
    `context`, averaged over blocks of `step`. A region whose context is its crop has a step of 1.
    """

    tile: Box
    crop: Box
    context: Box
    step: int


def label(flags: BoolArray) -> tuple[NDArray[np.int32], int]:
    """Number the connected groups of set flags, diagonal neighbours included.

    Args:
        flags: bool (h, w), of modest size: this is meant for the coarse grid.

    Returns:
        int32 (h, w), 0 where unset and 1..n elsewhere, in reading order of each group's first texel;
        and n.
    """
    if not flags.any():
        return np.zeros(flags.shape, np.int32), 0
    height, width = flags.shape
    number = np.where(flags, np.arange(1, flags.size + 1, dtype=np.int32).reshape(flags.shape), 0)
    big = np.int32(flags.size + 1)
    parent = np.arange(flags.size + 2, dtype=np.int32)
    pairs = []
    for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1)):
        first = number[: height - dy, max(0, -dx) : width - max(0, dx)]
        second = number[dy:, max(0, dx) : width + min(0, dx)]
        both = (first > 0) & (second > 0)
        pairs.append(np.stack([first[both], second[both]]))
    links = np.concatenate(pairs, axis=1)
    # Hook each root under the smallest neighbouring root, then shorten all paths, until nothing changes.
    while links.size:
        roots = parent[links]
        low = roots.min(axis=0)
        high = roots.max(axis=0)
        if (low == high).all():
            break
        best = np.full(parent.size, big, np.int32)
        np.minimum.at(best, high, low)
        parent = np.minimum(parent, best)
        while True:
            shorter = parent[parent]
            if (shorter == parent).all():
                break
            parent = shorter
    roots_of = parent[number[flags]]
    names, numbers = np.unique(roots_of, return_inverse=True)
    result = np.zeros(flags.shape, np.int32)
    result[flags] = numbers.reshape(-1).astype(np.int32) + 1
    return result, int(names.size)


def bounds(flags: BoolArray) -> Box:
    """The smallest box around the set flags, of which there must be one."""
    rows = np.flatnonzero(flags.any(axis=1))
    columns = np.flatnonzero(flags.any(axis=0))
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def _coarse_boxes(hole: BoolArray) -> list[Box]:
    """Boxes around the groups of holes that lie within a few texels of a coarse grid."""
    height, width = hole.shape
    cell = max(1, -(-max(height, width) // 256))
    coarse = block_any(hole, cell)
    names, count = label(coarse)
    rows, columns = np.nonzero(coarse)
    group = names[rows, columns] - 1
    low = np.full((2, count), max(height, width), np.int64)
    high = np.zeros((2, count), np.int64)
    np.minimum.at(low[0], group, rows)
    np.minimum.at(low[1], group, columns)
    np.maximum.at(high[0], group, rows)
    np.maximum.at(high[1], group, columns)
    return [
        Box(
            int(low[0, i]) * cell,
            min(height, (int(high[0, i]) + 1) * cell),
            int(low[1, i]) * cell,
            min(width, (int(high[1, i]) + 1) * cell),
        )
        for i in range(count)
    ]


def _cells(height: int, width: int) -> list[Box]:
    """A grid of tiles over the whole map, for holes in too many places to look at one by one."""
    return [
        Box(top, min(height, top + TILE), left, min(width, left + TILE))
        for top in range(0, height, TILE)
        for left in range(0, width, TILE)
    ]


def _merge(boxes: list[Box]) -> list[Box]:
    """Boxes near each other joined, as long as they fit into a tile together."""
    boxes = sorted(boxes, key=lambda box: (box.top, box.left))
    merged = True
    while merged:
        merged = False
        kept: list[Box] = []
        for box in boxes:
            for index, other in enumerate(kept):
                whole = box.union(other)
                longest = max(whole.height, whole.width)
                if other.contains(box) or (
                    longest <= TOGETHER or (longest <= TILE and box.gap(other) <= 2 * MARGIN)
                ):
                    kept[index] = whole
                    merged = True
                    break
            else:
                kept.append(box)
        boxes = kept
    return boxes


def _split(box: Box) -> list[Box]:
    """A box cut into tiles of about equal size, none longer than `TILE`."""
    down = -(-box.height // TILE)
    across = -(-box.width // TILE)
    edges_y = [box.top + box.height * i // down for i in range(down + 1)]
    edges_x = [box.left + box.width * i // across for i in range(across + 1)]
    return [
        Box(edges_y[i], edges_y[i + 1], edges_x[j], edges_x[j + 1])
        for i in range(down)
        for j in range(across)
    ]


def _around(box: Box, tall: int, broad: int, height: int, width: int) -> Box:
    """A box of the given size around another, pushed into the map, cut where the map is smaller."""
    tall, broad = min(tall, height), min(broad, width)
    top = int(np.clip((box.top + box.bottom - tall) // 2, 0, height - tall))
    left = int(np.clip((box.left + box.right - broad) // 2, 0, width - broad))
    return Box(top, top + tall, left, left + broad)


def _context(hole_box: Box, surface: Box, space: str, height: int, width: int) -> tuple[Box, int]:
    """What the network should see around a hole, and how coarsely.

    Outside tangent space the vectors follow the head's shape, which only a look at all of it tells, and
    heads seen whole are what the network knows best: there the context is everything there is.
    """
    size = max(hole_box.height, hole_box.width)
    side = max(3 * size, CONTEXT)
    if space != "tangent" or side >= max(height, width) // 2:
        hole_box = surface.union(hole_box)
        side = max(side, hole_box.height, hole_box.width)
        side = min(side, max(height, width))
    step = -(-side // CONTEXT)
    return _around(hole_box, max(side, MARGIN), max(side, MARGIN), height, width), step


def widen(box: Box, height: int, width: int) -> tuple[Box, int] | None:
    """A context of twice the size, for a hole without any known texel in sight; None past the whole map."""
    if box.height >= height and box.width >= width:
        return None
    side = min(2 * max(box.height, box.width), max(height, width))
    step = -(-side // CONTEXT)
    return _around(box, side, side, height, width), step


def plan(hole: BoolArray, valid: BoolArray, space: str = "tangent") -> list[Region]:
    """Cut a job into regions: near holes together, large ones into tiles, each with its context.

    Args:
        hole: bool (H, W), what to repair.
        valid: bool (H, W), where there is a surface; holes lie within.
        space: Of the map's vectors; outside tangent space the context is larger.

    Returns:
        Regions in the order in which to repair them. Each set texel lies in exactly one tile.
    """
    if not hole.any():
        return []
    height, width = hole.shape
    boxes = _coarse_boxes(hole)
    whole = bounds(hole)
    if max(whole.height, whole.width) <= TOGETHER:
        boxes = [whole]
    elif len(boxes) > 400:
        boxes = _cells(height, width)
    boxes = _merge(boxes)
    surface = bounds(valid)
    regions: list[Region] = []
    taken = np.zeros(hole.shape, np.bool_)
    for box in boxes:
        context, step = _context(box, surface, space, height, width)
        for tile in _split(box):
            # Boxes may overlap; the texels of one tile are done once, by the first that holds them.
            mine = hole[tile.slices] & ~taken[tile.slices]
            if not mine.any():
                continue
            taken[tile.slices] |= mine
            inner = bounds(mine)
            tight = Box(
                tile.top + inner.top, tile.top + inner.bottom, tile.left + inner.left, tile.left + inner.right
            )
            margin_y = max(MARGIN, tight.height // 2)
            margin_x = max(MARGIN, tight.width // 2)
            tall = min(tight.height + 2 * margin_y, CROP)
            broad = min(tight.width + 2 * margin_x, CROP)
            crop = _around(tight, tall, broad, height, width)
            if step == 1 and context.contains(crop):
                crop = context
            regions.append(Region(tight, crop, context, step))
    return regions
