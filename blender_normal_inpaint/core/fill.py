"""Filling the hole of one crop: the network for the shape, the seam closed, detail on top."""

from __future__ import annotations

import hashlib
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .closing import REACH, close_seam, close_smoothly
from .detail import add_detail
from .edges import sharpen
from .engine import BoolArray, Cancel, Crop, Engine, FloatArray, Progress, never_cancel, no_progress
from .errors import Cancelled, InpaintError
from .guess import (
    Shown,
    counted_together,
    drawn_around,
    first_guess,
    mixed_with,
    shown_by_head,
    shown_by_relief,
    shown_by_twin,
)
from .harmonic import grow
from .head import Drawn, Head
from .modelcard import GUESS, INPUT_CHANNELS, SPACES
from .morphable import fitted, packed, unpacked
from .normals import dot, put, quarter_turned, unit
from .resample import area_table, block_sum, box_around, classify, enlarge, mean_directions, shrink, spread
from .symmetry import quarters as layout_quarters

#: A context larger than this is first averaged in whole blocks, which is cheaper and hardly differs.
_LARGE = 1024

#: A hole is thin if no square of this share of the map's longer side fits into it.
_THIN = 1 / 8

#: How much finer the network sees thin holes than its working size. Measured on six held-out heads at 384
#: instead of 256 texels: lines 2.37 degrees instead of 2.57 in camera space, 4.58 instead of 4.66 in tangent
#: space; but 0.96 instead of 0.92 in object space, which stays as it is. Large holes become worse.
_FINER = 1.5

#: How far around a hole it is known what the context has of the other half, in texels.
_NEAR = 40

#: How far from one the length of a network's vectors may be.
_UNIT_SLACK = 0.02


def prepare_batch(
    normals: FloatArray, hole: BoolArray, valid: BoolArray, space: str, guess: FloatArray
) -> FloatArray:
    """The network's input; the one home of its channel layout (`modelcard.INPUT_CHANNELS`).

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), what to fill.
        valid: bool (h, w), where there is a surface.
        space: "tangent", "object" or "camera".
        guess: float32 (h, w, 3), see `guess.first_guess`.

    Returns:
        float32 (11, h, w): normals where known and zero elsewhere, hole, valid, one-hot space, the guess.
    """
    batch = np.zeros((len(INPUT_CHANNELS), *hole.shape), np.float32)
    known = valid & ~hole
    np.multiply(np.moveaxis(normals, -1, 0), known, out=batch[:3])
    batch[3] = hole & valid
    batch[4] = valid
    batch[5 + SPACES.index(space)] = 1
    batch[GUESS:] = np.moveaxis(guess, -1, 0)
    return batch


@dataclass(frozen=True)
class _Context:
    """What the network saw and said: a smooth field with no seam, on the context's own grid.

    `field` is float32 (h, w, 3), its vectors shorter at edges. A place p on the crop's axis (texel centres
    at whole numbers) lies at (p + 0.5 - top) * h / tall - 0.5 on the grid's axis; likewise across.
    `coarseness` is how many texels of the crop one texel stands for of the finest grid on which detail has
    been seen so far, or else the network's. `twinned` says whether that detail was the other half's, where
    it shows any. `head` is one that fits it and counts, in camera space.
    """

    field: FloatArray
    top: int
    left: int
    tall: int
    broad: int
    coarseness: float
    twinned: bool
    head: Head | None

    def enlarged(self, field: FloatArray, box: tuple[slice, slice]) -> FloatArray:
        """A box of the crop as a field (h, w, c) on the context's grid has it, planes first."""
        return enlarge(field, *self._places(box))

    def shape(self, box: tuple[slice, slice], wanted: BoolArray) -> FloatArray:
        """A box of the crop as the field has it, planes first; edges are sharp where it is wanted."""
        planes = self.enlarged(self.field, box)
        if self.head is not None:
            sharpen(planes, self.field, self.head, *self._places(box), wanted)
        return planes

    def _places(self, box: tuple[slice, slice]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the rows and columns of a box of the crop lie on the context's grid."""
        height, width = self.field.shape[:2]
        rows = (np.arange(box[0].start, box[0].stop) + 0.5 - self.top) * height / self.tall - 0.5
        columns = (np.arange(box[1].start, box[1].stop) + 0.5 - self.left) * width / self.broad - 0.5
        return rows, columns


def _check_crop(crop: Crop) -> None:
    shape = crop.hole.shape
    if (
        crop.hole.ndim != 2
        or crop.valid.shape != shape
        or crop.normals.shape != (*shape, 3)
        or crop.normals.dtype != np.float32
        or crop.hole.dtype != np.bool_
        or crop.valid.dtype != np.bool_
        or crop.space not in SPACES
    ):
        raise InpaintError(
            "internal",
            "A crop of the map has the wrong shape or type.",
            detail=f"normals {crop.normals.shape} {crop.normals.dtype}, hole {shape} {crop.hole.dtype}, "
            f"valid {crop.valid.shape} {crop.valid.dtype}, space {crop.space!r}",
        )


def _run(engine: Engine, batch: FloatArray, space: str) -> FloatArray:
    """The network's answer, checked: float32 (11, h, w) to (h, w, 3), unit.

    It is asked twice, about the map and about its mirror image, and the mean direction is taken: the two
    answers err differently, so their mean errs less (measured on held-out heads: 3 % less in large holes). In
    tangent space, where most of the error is pores that nobody can tell, it is not: the shape alone would err
    0.8 % less, and a repair of 512 texels take a third longer.
    """
    asked = batch[None] if space == "tangent" else np.stack([batch, _mirrored(batch)])
    answers = np.asarray(engine.run(asked))
    if answers.shape != (len(asked), 3, *batch.shape[1:]):
        raise InpaintError("bad_result", detail=f"shape {answers.shape} for input of {asked.shape}")
    length = np.sqrt(np.einsum("nijk,nijk->njk", answers, answers))
    if not np.isfinite(length).all():
        raise InpaintError("bad_result", detail="the network's output is not finite")
    if float(np.abs(length - 1).max()) > _UNIT_SLACK:
        raise InpaintError("bad_result", detail=f"vectors of length {length.min():.3g} to {length.max():.3g}")
    total = answers[0] + (_mirrored(answers[1]) if len(asked) > 1 else 0)
    return unit(np.ascontiguousarray(np.moveaxis(total, 0, -1), dtype=np.float32))


def _mirrored(planes: FloatArray) -> FloatArray:
    """Planes (c, h, w) seen in a mirror: columns reversed, and the x of normals and guess negated."""
    result = planes[:, :, ::-1].copy()
    result[[i for i in (0, GUESS) if i < len(result)]] *= -1
    return result


def _thin(hole: BoolArray) -> bool:
    """Whether all holes are thin, bool (h, w), see `_THIN`."""
    square = max(1, round(max(hole.shape) * _THIN))
    if min(hole.shape) < square:
        return True
    table = area_table(hole)
    strips = table[square:] - table[:-square]
    return not (strips[:, square:] - strips[:, :-square] == square * square).any()


class _Frame:
    """Where the network looks along an axis: from the first surface to the last, in the middle of its input.

    Attributes:
        size: of the network's input, a multiple of what it needs.
        on_map: what of the map it sees.
        inside: where that lies in its input.
    """

    def __init__(self, surface: BoolArray, multiple: int) -> None:
        places = np.flatnonzero(surface)
        first, count = int(places[0]), int(places[-1] - places[0]) + 1
        self.size = -(-count // multiple) * multiple
        start = (self.size - count) // 2
        self.on_map, self.inside = slice(first, first + count), slice(start, start + count)


def _predict(crop: Crop, engine: Engine) -> _Context:
    """Run the network on the crop's context and close the seam on its own grid."""
    head = None
    if crop.wide is None:
        normals, hole, valid = crop.normals, crop.hole & crop.valid, crop.valid
        step, top, left, seed, twin = 1, 0, 0, crop.seed, None
    else:
        normals, hole, valid = crop.wide.normals, crop.wide.hole & crop.wide.valid, crop.wide.valid
        step, top, left, seed = crop.wide.step, crop.wide.top, crop.wide.left, crop.wide.seed
        twin = crop.wide.twin
        if crop.wide.head is not None:
            head = unpacked(crop.wide.head, hole.shape)
    if not (valid & ~hole).any():
        raise InpaintError("no_context")
    tall, broad = hole.shape[0] * step, hole.shape[1] * step
    block = -(-max(hole.shape) // _LARGE)
    if block > 1:
        known = valid & ~hole
        # What juts out over the edge in the last blocks only moves the grid by less than one texel.
        vectors = block_sum(normals * known[..., None], block)
        area = block_sum(np.ones(hole.shape, np.bool_), block)
        counts = block_sum(known, block), block_sum(hole, block)
        normals, hole, valid = classify(vectors, *counts, area)
        twin = head = None  # they are for the texels as they were
        tall, broad = hole.shape[0] * block * step, hole.shape[1] * block * step
    # Detail between the network's texels and the context's is seen on the context's grid alone.
    coarse = block * step > 1 and crop.detail
    # The network, and who looks for the other half, know faces that are laid out upright.
    quarters = layout_quarters(normals, valid & ~hole) if crop.space == "object" else 0
    if quarters:
        normals = quarter_turned(normals, -quarters, crop.space)
        hole, valid = quarter_turned(hole, -quarters), quarter_turned(valid, -quarters)
        twin = None if twin is None else quarter_turned(twin, -quarters, crop.space)
    field, scale, front = _shape(
        normals,
        hole,
        valid,
        crop.space,
        crop.symmetry,
        engine,
        seed if coarse else None,
        twin,
        crop.pores,
        head,
    )
    if quarters:
        field = quarter_turned(field, quarters, crop.space)
    texels = tall / field.shape[0]
    coarseness = texels if coarse else max(1.0, texels / scale)
    return _Context(field, top, left, tall, broad, coarseness, coarse and twin is not None, front)


#: The last context of each engine, its shape, scale and head: neighbouring crops of a map share it.
_last: weakref.WeakKeyDictionary[object, tuple[bytes, FloatArray, float, Head | None]] = (
    weakref.WeakKeyDictionary()
)


def _shape(
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    space: str,
    symmetry: bool,
    engine: Engine,
    seed: int | None,
    twin: FloatArray | None,
    pores: bool,
    head: Head | None,
) -> tuple[FloatArray, float, Head | None]:
    """A context with its holes filled.

    Args:
        normals: float32 (h, w, 3), unit at known texels.
        hole: bool (h, w).
        valid: bool (h, w), holes lie within.
        space: of the vectors.
        symmetry: whether the face's other half may help.
        engine: the network.
        seed: of the detail that the holes get at this size; None for none.
        twin: what the other half shows, see `engine.Crop`; for that detail.
        pores: whether all of its detail is taken over.
        head: that was fitted to these texels in camera space; None to fit one.

    Returns:
        float32 (h, w, 3): the known normals, the closed prediction, its vectors shorter at edges, and
        harmless values off the surface, for interpolation reaches two texels past it; the network's texels
        per texel, at most 1; and a head that counts, if any.
    """
    card = engine.card
    digest = hashlib.sha256(f"{space} {symmetry} {hole.shape} {seed} {pores}".encode())
    for array in (normals, hole, valid, twin, packed(head) if head is not None else None):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    remembered = _last.get(engine)
    if remembered is not None and remembered[0] == digest.digest():
        return remembered[1:]
    largest = card.working_size
    if space != "object" and _thin(hole):
        largest = int(_FINER * largest) // card.size_multiple * card.size_multiple
    scale = min(1.0, largest / max(hole.shape))
    with ThreadPoolExecutor(max_workers=2) as beside:
        # NumPy works out on one core what a head shows, while the network, none of NumPy's, runs on others.
        by_head = front = None
        if space == "camera" and hole.any():
            by_head = beside.submit(_by_head, beside, normals, hole, valid, head, symmetry, scale)
        # Guessed where all that is known is seen. At the network's size a texel that is hidden in part has
        # the mean of its known part, which lies beside its middle; with the guess that of the whole.
        guess, sure = first_guess(normals, hole & valid, valid, space, scale, symmetry=symmetry)
        normals, hole = np.where(sure[..., None], guess, normals), hole & ~sure
        known = valid & ~hole

        def answered(quarters: int) -> tuple[FloatArray, Shown | None]:
            predicted = _predicted(normals, hole, valid, guess, space, engine, scale, quarters)
            result = np.where(known[..., None], normals, predicted)
            if hole.any():
                result[hole] = close_smoothly(predicted, normals, hole, known, REACH / scale)
            if by_head is None or not symmetry:
                return result, None
            return result, shown_by_relief(result, normals, hole, valid, scale)

        # Most heads are upright, and the network need not wait.
        quarters = head.quarters if head is not None and head.tells else 0
        field, by_relief = answered(quarters)
        if by_head is not None:
            drawn, by_twin, own = by_head.result()
            if drawn is not None and drawn.head.quarters != quarters:
                field, by_relief = answered(drawn.head.quarters)
            gaps = None if drawn is None else drawn.gaps
            field = mixed_with(field, counted_together(by_relief, by_twin, own, gaps))
            front = drawn.head if drawn is not None and own is not None and own.counts else None
    if seed is not None and hole.any():
        rng = np.random.default_rng(seed)
        # Vectors are shorter at edges, which keeps those straight when they are enlarged.
        length = np.sqrt(dot(field, field))[..., None]
        field = length * add_detail(
            unit(field), normals, hole, valid, space, 1 / scale, rng, twin=twin, pores=pores
        )
    field = spread(field, valid)
    _last[engine] = (digest.digest(), field, scale, front)
    return field, scale, front


def _by_head(
    beside: Executor,
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    head: Head | None,
    symmetry: bool,
    scale: float,
) -> tuple[Drawn | None, Shown | None, Shown | None]:
    """A head that fits a map in camera space, what the other half shows by it, and what it shows itself.

    Args:
        beside: where one thing more can be worked out at the same time.
        normals: float32 (h, w, 3), unit at known texels.
        hole: bool (h, w), within valid.
        valid: bool (h, w).
        head: that was fitted to these texels; None to fit one.
        symmetry: whether the other half may help.
        scale: the network's texels per texel.
    """
    drawn = drawn_around(hole, valid, head or fitted(normals, valid & ~hole, valid))
    if drawn is None:
        return None, None, None
    own = beside.submit(shown_by_head, normals, hole, valid, drawn, scale)
    by_twin = shown_by_twin(normals, hole, valid, drawn, scale) if symmetry else None
    return drawn, by_twin, own.result()


def _predicted(
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    guess: FloatArray,
    space: str,
    engine: Engine,
    scale: float,
    quarters: int,
) -> FloatArray:
    """What the network makes of a guess: float32 (h, w, 3), unit on the surface.

    Args:
        normals: float32 (h, w, 3), unit at known texels.
        hole: bool (h, w).
        valid: bool (h, w), holes lie within.
        guess: float32 (h, w, 3), see `guess.first_guess`.
        space: of the vectors.
        engine: the network.
        scale: its texels per texel, at most 1.
        quarters: of a turn by which a head is turned in a map in camera space, counter-clockwise: the network
            sees it upright, as it has seen others.
    """
    if quarters:
        normals, hole, valid, guess = (
            quarter_turned(field, -quarters) for field in (normals, hole, valid, guess)
        )
        return quarter_turned(_predicted(normals, hole, valid, guess, space, engine, scale, 0), quarters)
    card = engine.card
    height = max(1, round(hole.shape[0] * scale))
    width = max(1, round(hole.shape[1] * scale))
    small_normals, small_hole, small_valid = shrink(normals, hole, valid, height, width)
    if not (small_valid & ~small_hole).any():
        raise InpaintError("no_context")
    small_guess = mean_directions(guess, height, width) * small_valid[..., None]
    guessed = small_guess.any(axis=-1, keepdims=True)
    small_normals = np.where(guessed, small_guess, small_normals)
    # The network looks at the surface alone. What lies around it costs time: a third, of a head in its frame.
    rows = _Frame(np.asarray(small_valid.any(axis=1)), card.size_multiple)
    columns = _Frame(np.asarray(small_valid.any(axis=0)), card.size_multiple)
    box = rows.on_map, columns.on_map

    def boxed(field: NDArray[Any]) -> NDArray[Any]:
        result = np.zeros((rows.size, columns.size, *field.shape[2:]), field.dtype)
        result[rows.inside, columns.inside] = field[box]
        return result

    layers = boxed(small_normals), boxed(small_hole), boxed(small_valid)
    answer = _run(engine, prepare_batch(*layers, space, boxed(small_guess)), space)[
        rows.inside, columns.inside
    ]
    # What the network changed is brought to the context's grid, not its answer: the guess is sharper there.
    change = np.zeros(small_guess.shape, np.float32)
    change[box] = answer - small_guess[box]
    change = spread(change, small_valid)
    return unit(guess + _resized(change, hole.shape))


def _resized(field: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """A smooth field (h, w, 3) at another size."""
    if field.shape[:2] == shape[:2]:
        return field
    rows = (np.arange(shape[0]) + 0.5) * field.shape[0] / shape[0] - 0.5
    columns = (np.arange(shape[1]) + 0.5) * field.shape[1] / shape[1] - 0.5
    return np.ascontiguousarray(np.moveaxis(enlarge(field, rows, columns), 0, -1))


def _stop_if(cancel: Cancel) -> None:
    if cancel():
        raise Cancelled()


def fill_crop(
    crop: Crop, engine: Engine, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
) -> FloatArray:
    """Fill the hole of a crop.

    The context is averaged down to the network's working size, the prediction brought back by smooth
    interpolation, its seam closed on the context's grid and again at native resolution, and, if the crop
    asks for it, fine detail continued from the surroundings.

    Args:
        crop: The piece of map.
        engine: The network.
        progress: Told how far it is.
        cancel: Polled between steps.

    Returns:
        float32 (h, w, 3), unit: known texels as they were, filled ones in the hole, (0, 0, 1) elsewhere.

    Raises:
        InpaintError: `no_context` without any known texel, `bad_result` if the network misbehaves,
            `cancelled`, or whatever the engine raises.
    """
    _check_crop(crop)
    _stop_if(cancel)
    known = crop.valid & ~crop.hole
    hole = crop.hole & crop.valid
    result = crop.normals.copy()
    put(result, ~known, (0.0, 0.0, 1.0))
    if not hole.any():
        return result
    progress(0.0, "Predicting the shape")
    context = _predict(crop, engine)
    _stop_if(cancel)
    progress(0.4, "Closing the seam")
    # Native work is limited to the hole's own box, with the texel around it that carries the border.
    box = box_around(hole, 1)
    # The other half's own edges are sharp, and elsewhere by a texel or two.
    soft = grow(hole[box]) if crop.twin is None else grow(hole[box]) & ~crop.twin[box].any(axis=-1)
    planes = context.shape(box, soft)
    _stop_if(cancel)
    result[box][hole[box]] = close_seam(planes, crop.normals[box], hole[box], known[box])
    del planes
    _stop_if(cancel)
    if crop.detail:
        progress(0.6, "Continuing the detail")

        def detail_progress(fraction: float, text: str) -> None:
            progress(0.6 + 0.4 * fraction, text)

        detailed = add_detail(
            result,
            crop.normals,
            hole,
            crop.valid,
            crop.space,
            context.coarseness,
            np.random.default_rng(crop.seed),
            twin=crop.twin,
            pores=crop.pores,
            twin_base=_twin_base(crop, context, hole) if context.twinned else None,
            progress=detail_progress,
            cancel=cancel,
        )
        result[hole] = unit(detailed[hole])
        _stop_if(cancel)
    progress(1.0, "Filled")
    return result


def _twin_base(crop: Crop, context: _Context, hole: BoolArray) -> FloatArray | None:
    """What a crop's context has of its twin, float32 (h, w, 3): zero where nothing, and far from the hole."""
    if crop.wide is None or crop.wide.twin is None:
        return None
    box = box_around(hole, _NEAR)
    result = np.zeros(crop.normals.shape, np.float32)
    twin, there = crop.wide.twin, np.asarray(crop.wide.twin.any(axis=-1))
    planes = context.enlarged(
        np.concatenate([spread(twin, there), there[..., None]], -1, dtype=np.float32), box
    )
    result[box] = np.moveaxis(planes[:3] * (planes[3] > 0.5), 0, -1)
    return result


class LocalFiller:
    """A `Filler` with its engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def fill(
        self, crop: Crop, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
    ) -> FloatArray:
        """See `fill_crop`."""
        return fill_crop(crop, self.engine, progress=progress, cancel=cancel)
