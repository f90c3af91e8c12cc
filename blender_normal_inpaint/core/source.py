"""A map as the pipeline reads it: native samples, and which texels are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from .basemesh import BaseMesh, Frames, Grid
from .engine import BoolArray, FloatArray, Pixels
from .normals import Encoding, decode_vectors, put, unit
from .regions import Box
from .resample import block_sum, classify

#: Rows looked at together where a pass over the whole map is needed, in texels: bounds its memory.
_STRIP_TEXELS = 1 << 20


def strips(height: int, width: int) -> Iterator[slice]:
    """The rows of a map in pieces of modest memory."""
    rows = max(1, _STRIP_TEXELS // width)
    for top in range(0, height, rows):
        yield slice(top, min(height, top + rows))


@dataclass(frozen=True)
class Source:
    """A map, of which nothing is decoded before it is asked for.

    Attributes:
        encoding: how it stores its vectors.
        pixels: (H, W, C), native samples.
        hole: bool (H, W), what is not known of its surface.
        valid: bool (H, W), its surface; holes lie within.
        mesh: that an object-space map lies on, in its axes. What is read is in the mesh's tangent space then.
    """

    encoding: Encoding
    pixels: Pixels
    hole: BoolArray
    valid: BoolArray
    mesh: BaseMesh | None = None

    @property
    def space(self) -> str:
        """Of the vectors that are read."""
        return self.encoding.space if self.mesh is None else "tangent"

    def thinned(self, step: int) -> Source:
        """A smaller map: of each square of so many texels a side the one in the middle."""
        texels = slice(step // 2, None, step)
        place = texels, texels
        return replace(self, pixels=self.pixels[place], hole=self.hole[place], valid=self.valid[place])

    def frames(self, place: tuple[slice, slice]) -> Frames | None:
        """The mesh's tangent frames at some texels; None without a mesh."""
        if self.mesh is None:
            return None
        rows, columns = (
            range(*along.indices(length)) for along, length in zip(place, self.hole.shape, strict=True)
        )
        size = len(rows), len(columns)
        return self.mesh.frames(Grid(self.hole.shape, (rows.start, columns.start), rows.step, size))

    def read(
        self, place: tuple[slice, slice], frames: Frames | None = None
    ) -> tuple[FloatArray, BoolArray, BoolArray]:
        """Normals of some texels, unit where known and (0, 0, 1) elsewhere, hole and valid.

        Args:
            place: rows and columns.
            frames: of these texels, if they are there already.
        """
        hole, valid = self.hole[place], self.valid[place]
        vectors = decode_vectors(self.pixels[place], self.encoding)
        frames = frames or self.frames(place)
        if frames is not None:
            vectors = frames.local(vectors)
        put(vectors, ~(valid & ~hole), (0.0, 0.0, 1.0))
        return unit(vectors), hole, valid

    def averaged(self, box: Box, step: int) -> tuple[FloatArray, BoolArray, BoolArray]:
        """A box averaged over blocks of so many texels a side: normals, hole and valid, see `Wide`."""
        rows = -(-box.height // step)
        columns = -(-box.width // step)
        vectors = np.zeros((rows, columns, 3), np.float32)
        known_sum = np.zeros((rows, columns), np.float32)
        hole_sum = np.zeros((rows, columns), np.float32)
        depth = max(1, _STRIP_TEXELS // 4 // (box.width * step)) * step
        across = slice(box.left, box.right)
        for top in range(box.top, box.bottom, depth):
            down = slice(top, min(box.bottom, top + depth))
            known = self.valid[down, across] & ~self.hole[down, across]
            place = slice((top - box.top) // step, -(-(down.stop - box.top) // step))
            known_sum[place] = block_sum(known, step)
            hole_sum[place] = block_sum(self.hole[down, across], step)
            vectors[place] = _block_vectors(self.pixels[down, across], known, step, self.encoding)
        tall = np.minimum(step, box.height - np.arange(rows) * step)
        broad = np.minimum(step, box.width - np.arange(columns) * step)
        area = np.outer(tall, broad).astype(np.float32)
        if self.mesh is not None:
            vectors = self.mesh.frames(Grid.blocks(self.hole.shape, step, box)).local(vectors)
        return classify(vectors, known_sum, hole_sum, area)


def _block_vectors(pixels: Pixels, known: BoolArray, step: int, encoding: Encoding) -> FloatArray:
    """Sums of the known vectors over blocks, float32 (rows, columns, 3)."""
    if pixels.dtype.kind == "u" and not encoding.two_channel:
        # Decoding is linear, so the plain numbers can be summed first: many fewer texels to decode.
        counts = block_sum(known, step)
        sums = np.empty((*counts.shape, 3), np.float32)
        for channel in range(3):
            # Integers of up to 16 bits fit: a block holds at most 32 x 32 of them.
            sums[..., channel] = block_sum(pixels[..., channel] * known, step, np.uint32)
        top = np.float32(np.iinfo(pixels.dtype).max)
        means = sums / (np.maximum(counts, 1)[..., None] * top)
        vectors = decode_vectors(means.astype(np.float32), encoding)
        return np.asarray(vectors * counts[..., None], np.float32)
    vectors = decode_vectors(pixels, encoding)
    put(vectors, ~known, (0.0, 0.0, 0.0))  # not a product: what is not known may be NaN
    sums = block_sum(vectors, step)
    return np.asarray(sums, np.float32)
