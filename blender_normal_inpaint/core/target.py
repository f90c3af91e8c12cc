"""The map that a repair is written into, in its own samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .engine import BoolArray, FloatArray, Pixels
from .normals import encode, unit
from .regions import Box
from .resample import block_any
from .seams import Change
from .source import Source, strips

#: Side of the squares in which both sides of seams are made to meet, and a change that no map shows.
_SQUARE, _MOVED = 512, 5e-4


@dataclass
class Target:
    """A map that takes what is repaired.

    Attributes:
        source: whose pixels are written to.
        constant_z: the blue of a two-channel map if it is the same at all known texels.
    """

    source: Source
    constant_z: Pixels | None

    @classmethod
    def of(cls, source: Source) -> Target:
        """For a map as it is before anything is written."""
        constant_z = None
        if source.encoding.two_channel and source.pixels.shape[2] >= 3:
            constant_z = _constant_z(source)
        return cls(source, constant_z)

    def store(self, place: tuple[NDArray[np.intp], NDArray[np.intp]], vectors: FloatArray) -> None:
        """Encode vectors (n, 3) of the map's space at rows and columns (n,); nothing else is touched."""
        pixels = self.source.pixels
        stored = encode(vectors, self.source.encoding, pixels.dtype)
        channels = min(3, pixels.shape[2])
        if self.constant_z is not None and channels == 3:
            stored[:, 2] = self.constant_z
        pixels[(*place, slice(channels))] = stored[:, :channels]

    def join(self, hole: BoolArray, change: Change) -> None:
        """Add what makes both sides of seams meet to what was repaired, and known since: bool (H, W)."""
        height, width = hole.shape
        for row, column in np.argwhere(block_any(hole, _SQUARE)) * _SQUARE:
            box = Box(row, min(row + _SQUARE, height), column, min(column + _SQUARE, width))
            moved = change.at(box)
            y, x = place = np.nonzero(hole[box.slices] & (np.abs(moved).max(axis=-1) > _MOVED))
            if not y.size:
                continue
            frames = self.source.frames(box.slices)
            normals = self.source.read(box.slices, frames)[0]
            vectors = unit(normals[place] + moved[place])
            if frames is not None:
                vectors = frames.of_local(vectors, place)
            self.store((y + box.top, x + box.left), vectors)


def _constant_z(source: Source) -> Pixels | None:
    """The blue that all known texels have, else None."""
    known, blue = source.valid & ~source.hole, source.pixels[..., 2]
    y, x = np.unravel_index(int(np.argmax(known)), known.shape)
    value = blue[y, x]
    for rows in strips(*known.shape):
        if (known[rows] & (blue[rows] != value)).any():
            return None
    return np.asarray(value)
