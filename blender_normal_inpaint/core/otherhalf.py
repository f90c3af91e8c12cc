"""What the face's other half shows of a piece of a map, looked up in all of the map.

A filler sees a piece alone; what is hidden in it is often seen far away from it. In a UV layout the map lies
over its own mirror image (`core.symmetry`); in camera space a head that was fitted to it tells which places
are each other's mirror image (`core.morphable`), and in a UV layout of any kind the mesh (`core.opposites`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from . import morphable, symmetry
from .basemesh import BaseMesh, Grid, lying_in
from .engine import BoolArray, FloatArray
from .harmonic import grow
from .normals import unit
from .opposites import Opposites, opposites
from .regions import MARGIN, Box, Region
from .resample import block_any, cubic, enlarge, framed, sampled
from .source import Source
from .twin import REACH

#: Texels along the longer side, about, by which it is told how a layout lies over its mirror image.
_LAYOUT = 1024

#: A head in more doubt than that tells no places of single pores; nor where it is less sure than that.
_DOUBT, _SURE = 0.15, 0.2

#: Nor where neighbours' mirror images lie farther apart in space than so many texels of the context, at a
#: silhouette, and so many texels around: a nose's edge, where it would be jagged, but not a lid's.
_TORN, _SILHOUETTE = 6.0, 2

#: So far around its hole a context's detail is compared with the other half's, in its own texels.
_AROUND = 48

#: Side of the blocks of which it is told whether they are near a hole; texels that are looked up at a time,
#: which fit into the processor's cache and hold no other thread up.
_BLOCK, _AT_A_TIME = 16, 1 << 15

#: Side of the squares of a layout whose mirror image is looked up together; if that needs more texels than so
#: many, it is scattered all over the map, and left.
_TILE, _FARTHEST = 256, 1 << 22

#: Blocks along a layout's longer side by which it is told whether its halves are alike, and how many must be
#: known of both. Seen: heads in skin 0.4 to 0.8, skin alone 1.4 to 2.1; single texels of heads 0.6 to 1.
_OVERVIEW, _FEWEST = 64, 64

#: A layout whose halves are as alike as that is symmetric; of others a mesh tells more if by it they are so
#: much more alike.
_PLAIN, _BETTER = 0.6, 0.8


class OtherHalf(Protocol):
    """Where what the map's other half shows is looked up."""

    def of(self, box: Box) -> FloatArray | None:
        """A box's twin, see `Crop`; None if it has none."""

    def coarse(self, context: Box, step: int) -> FloatArray | None:
        """A context's twin, averaged over blocks of `step` texels a side; None if it has none. See `Wide`."""


def around(half: OtherHalf, source: Source, region: Region) -> FloatArray | None:
    """The twin of a region's crop, near its tile: see `Crop`. None if it shows nothing of the hole."""
    tile, crop = region.tile, region.crop
    top, bottom = max(crop.top, tile.top - MARGIN), min(crop.bottom, tile.bottom + MARGIN)
    left, right = max(crop.left, tile.left - MARGIN), min(crop.right, tile.right + MARGIN)
    box = Box(top, bottom, left, right)
    near = half.of(box)
    if near is None or not near[source.hole[box.slices]].any():
        return None
    result = np.zeros((crop.height, crop.width, 3), np.float32)
    result[top - crop.top : bottom - crop.top, left - crop.left : right - crop.left] = near
    return result


def of_layout(source: Source, meshes: Sequence[BaseMesh]) -> OtherHalf:
    """The other half of a map in a UV layout: by the layout if it is symmetric, else by a mesh that wears it.

    Args:
        source: the map.
        meshes: that wear it, if they are known.
    """
    # Seen by single texels: of a large map a small one tells enough.
    step = -(-max(source.hole.shape) // _LAYOUT)
    small = source.thinned(step)
    mirror = _layout(small)
    # In a symmetric layout texels fall on texels, which no mesh tells as well.
    if meshes and source.space == "tangent" and not (mirror and mirror.unlikeness <= _PLAIN):
        pairs = _more_alike(small, mirror, source.mesh or lying_in(meshes, source.hole))
        if pairs is not None:
            return MeshHalf(source, pairs)
    return LayoutHalf(source, mirror.enlarged(step) if mirror is not None else None)


def _more_alike(source: Source, mirror: symmetry.Mirror | None, mesh: BaseMesh) -> Opposites | None:
    """A mesh's opposites, if by them a map's halves are alike, and clearly more so than by its layout."""
    pairs = opposites(mesh)
    if pairs is None:
        return None
    by_mesh = _unlikeness(source, MeshHalf(source, pairs).everywhere)
    # A bent layout's axis is chance.
    by_layout = _unlikeness(source, LayoutHalf(source, mirror).coarse)
    return pairs if by_mesh <= min(symmetry.ALIKE, _BETTER * by_layout) else None


def _layout(source: Source) -> symmetry.Mirror | None:
    """How a map lies over its mirror image, if it is laid out symmetrically."""
    found = symmetry.find(*source.read((slice(None), slice(None))), source.space)
    fits = found is not None and found.unlikeness <= symmetry.ALIKE and abs(found.turn) <= symmetry.UPRIGHT
    return found if fits else None


def _unlikeness(source: Source, coarse: Callable[[Box, int], FloatArray | None]) -> float:
    """How unlike a map's halves are as a whole, see `symmetry.find`: infinite where too little is known."""
    height, width = source.hole.shape
    step = -(-max(height, width) // _OVERVIEW)
    whole = Box(0, height, 0, width)
    there = coarse(whole, step)
    if there is None:
        return np.inf
    here, hole, valid = source.averaged(whole, step)
    both = valid & ~hole & there.any(axis=-1)
    if np.count_nonzero(both) < _FEWEST:
        return np.inf
    here, there = here[both], there[both]
    apart, spread = (float((field**2).sum()) for field in (here - there, here - here.mean(axis=0)))
    return apart / max(spread, 1e-9)


class LayoutHalf:
    """An `OtherHalf` of a UV layout, if it is laid out symmetrically."""

    def __init__(self, source: Source, mirror: symmetry.Mirror | None) -> None:
        """Of a map, and how it lies over its mirror image, if it does."""
        self._source = source
        self._mirror = mirror

    def of(self, box: Box) -> FloatArray | None:
        """See `OtherHalf`."""
        return self.coarse(box, 1)

    def coarse(self, context: Box, step: int) -> FloatArray | None:
        """See `OtherHalf`."""
        if self._mirror is None:
            return None
        source = self._source
        shape = -(-context.height // step), -(-context.width // step)
        edges = np.meshgrid(
            context.top - 0.5 + step * np.array([0, shape[0]]),
            context.left - 0.5 + step * np.array([0, shape[1]]),
        )
        rows, columns = self._mirror.sources(edges[0], edges[1])
        top, bottom = _blocks_between(rows, step, source.hole.shape[0])
        left, right = _blocks_between(columns, step, source.hole.shape[1])
        if top >= bottom or left >= right:
            return None
        there = Box(top, bottom, left, right)
        normals, hole, valid = source.averaged(there, step) if step > 1 else source.read(there.slices)
        origin, corner = (there.top, there.left), (context.top, context.left)
        return symmetry.mirrored(self._mirror, normals, valid & ~hole, origin, corner, shape, step)


class MeshHalf:
    """An `OtherHalf` of any UV layout, if the mesh that wears the map is symmetric."""

    def __init__(self, source: Source, pairs: Opposites) -> None:
        """Of a map in tangent space, and of which places of its mesh are each other's mirror image."""
        self._source = source
        self._pairs = pairs

    def of(self, box: Box) -> FloatArray | None:
        """See `OtherHalf`."""
        return self.coarse(box, 1)

    def coarse(self, context: Box, step: int) -> FloatArray | None:
        """See `OtherHalf`."""
        return self._twin(context, step, _near(block_any(self._source.hole[context.slices], step)))

    def everywhere(self, context: Box, step: int) -> FloatArray | None:
        """As `coarse`, but far from holes as well."""
        return self._twin(context, step, None)

    def _twin(self, context: Box, step: int, near: BoolArray | None) -> FloatArray | None:
        pairs, source = self._pairs, self._source
        layers = np.column_stack([pairs.places, pairs.turns, pairs.hands])
        told, there = pairs.mesh.interpolated(layers, Grid.blocks(source.hole.shape, step, context), near)
        result = np.zeros((*there.shape, 3), np.float32)
        for row in range(0, there.shape[0], _TILE):
            for column in range(0, there.shape[1], _TILE):
                tile = slice(row, row + _TILE), slice(column, column + _TILE)
                seen = there[tile]
                if seen.any():
                    result[tile][seen] = self._shown(told[tile][seen], step)
        return result if result.any() else None

    def _shown(self, told: FloatArray, step: int) -> FloatArray:
        """What blocks of the map show at mirror images (n, 5), see `Opposites`: (n, 3), unit or zero."""
        source = self._source
        height, width = source.hole.shape
        down = (1 - told[:, 1].astype(np.float64)) * height - 0.5
        across = told[:, 0].astype(np.float64) * width - 0.5
        box = Box(
            *_reached_blocks(down, step, height),
            *_reached_blocks(across, step, width),
        )
        if box.height * box.width > _FARTHEST * step * step:
            return np.zeros((len(told), 3), np.float32)
        normals, hole, valid = source.averaged(box, step) if step > 1 else source.read(box.slices)
        at = [
            ((places - first - (step - 1) / 2) / step).astype(np.float32)
            for places, first in ((down, box.top), (across, box.left))
        ]
        found, share = _looked_up(
            normals, framed((valid & ~hole)[..., None].astype(np.float32)), at[0], at[1]
        )
        x, y, z = found.T
        along, up = told[:, 2], told[:, 3]
        # The bitangent's mirror image is square to the tangent's.
        vectors = np.stack([x * along + told[:, 4] * y * up, x * up - told[:, 4] * y * along, z], axis=-1)
        return np.asarray(vectors * share[:, None], np.float32)


def _looked_up(
    normals: FloatArray, known: FloatArray, rows: FloatArray, columns: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Normals (h, w, 3) at places (n,): float32 (n, 3), and factors (n,) that make them unit, or zero.

    Args:
        normals: unit where known.
        known: 1 where they are, `framed`.
        rows: of the places.
        columns: likewise.
    """
    found = cubic(normals, rows, columns)
    length = np.sqrt(np.einsum("nc,nc->n", found, found))
    good = (sampled(known, rows, columns)[:, 0] > 0.99) & (length > 0.1)
    return found, good / np.maximum(length, 0.1)


def _reached_blocks(places: NDArray[np.floating], step: int, length: int) -> tuple[int, int]:
    """The first texel of the blocks that places need, with their neighbours, and the one after the last."""
    first, last = _reached(places / step, -(-length // step))
    return first * step, min(length, last * step)


def _blocks_between(edges: FloatArray, step: int, length: int) -> tuple[int, int]:
    """First and last texel of whole blocks that reach past edges on both sides, within so many texels.

    Where edges lie between texels, blocks begin there.
    """
    first, last = float(edges.min()) + 0.5, float(edges.max()) + 0.5
    start = int(np.floor(first + 1e-2)) - step
    start += step * max(0, -(start // step))
    return start, min(length, start + step * (int(np.ceil((last - start) / step)) + 1))


class HeadHalf:
    """An `OtherHalf` of a map in camera space, if a head fits it.

    Attributes:
        head: that was fitted to the context, if any.
    """

    def __init__(
        self,
        source: Source,
        context: Box,
        step: int,
        normals: FloatArray,
        hole: BoolArray,
        valid: BoolArray,
    ) -> None:
        """Fit a head to a context.

        Args:
            source: the map.
            context: what of it is looked at.
            step: texels of the map for one of the context, along an axis.
            normals: float32 (h, w, 3), the context, see `Wide`.
            hole: bool (h, w), likewise.
            valid: bool (h, w), likewise.
        """
        self._source, self._context, self._step = source, context, step
        self._twin: FloatArray | None = None
        known = valid & ~hole
        self.head = morphable.fitted(normals, known, valid)
        if self.head is None or self.head.doubt > _DOUBT:
            return
        near = self.head.drawn(grow(hole, _AROUND) & valid, samples=1)
        other = near.other_side(normals, known)
        sure = (other.trust >= _SURE) & ~grow(_torn(other.places), _SILHOUETTE)
        other = self.head.bridged(replace(other, trust=other.trust * sure), normals, known, near.wanted)
        sure = np.asarray(other.trust > 0)
        if sure.any():
            self._twin = unit(other.normals) * sure[..., None]
            self._places = np.concatenate([other.places[..., :2], sure[..., None]], -1, dtype=np.float32)

    def coarse(self, context: Box, step: int) -> FloatArray | None:
        """See `OtherHalf`; of the context that the head was fitted to alone."""
        return self._twin if (context, step) == (self._context, self._step) else None

    def of(self, box: Box) -> FloatArray | None:
        """See `OtherHalf`."""
        if self.head is None or self._twin is None:
            return None
        source, context, step = self._source, self._context, self._step
        rows, columns = (
            (np.arange(first, last) + 0.5 - start) / step - 0.5
            for first, last, start in (
                (box.top, box.bottom, context.top),
                (box.left, box.right, context.left),
            )
        )
        down, across, sure = enlarge(self._places, rows, columns)
        seen = (sure > 0.9) & _near(source.hole[box.slices])
        if not seen.any():
            return None
        down, across = (
            (axis[seen] + np.float32(0.5)) * np.float32(step) + np.float32(start - 0.5)
            for axis, start in ((down, context.top), (across, context.left))
        )
        there = Box(*_reached(down, source.hole.shape[0]), *_reached(across, source.hole.shape[1]))
        normals, hole, valid = source.read(there.slices)
        known = framed((valid & ~hole)[..., None].astype(np.float32))
        vectors = np.zeros((down.size, 3), np.float32)
        for start in range(0, down.size, _AT_A_TIME):
            part = slice(start, start + _AT_A_TIME)
            found, share = _looked_up(normals, known, down[part] - there.top, across[part] - there.left)
            vectors[part] = self.head.mirrored(found) * share[:, None]
        result = np.zeros((box.height, box.width, 3), np.float32)
        result[seen] = vectors
        return result


def _near(hole: BoolArray) -> BoolArray:
    """Where a hole is no farther away than its detail reaches, in blocks: bool (h, w)."""
    blocks = grow(block_any(hole, _BLOCK), -(-REACH // _BLOCK))
    height, width = hole.shape
    return blocks.repeat(_BLOCK, 0).repeat(_BLOCK, 1)[:height, :width]


def _torn(places: FloatArray) -> BoolArray:
    """Where the mirror images of neighbours lie far from each other, for depth jumps there: bool (h, w)."""
    torn = np.zeros(places.shape[:2], np.bool_)
    for axis in (0, 1):
        far = np.moveaxis(np.abs(np.diff(places, axis=axis)).max(axis=-1) > _TORN, axis, 0)
        along = np.moveaxis(torn, axis, 0)
        along[:-1] |= far
        along[1:] |= far
    return torn


def _reached(places: NDArray[np.floating], length: int) -> tuple[int, int]:
    """The first texel that places need, with their neighbours, and the one after the last."""
    first = int(np.clip(np.floor(places.min()) - 2, 0, length - 1))
    return first, int(np.clip(np.ceil(places.max()) + 3, first + 1, length))
