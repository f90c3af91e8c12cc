"""Filling the hole of one crop: the network for the shape, a harmonic closing for the seam, detail on top."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass

import numpy as np

from . import harmonic
from .engine import BoolArray, Cancel, Crop, Engine, FloatArray, Progress, never_cancel, no_progress
from .errors import Cancelled, InpaintError
from .modelcard import SPACES
from .normals import unit
from .resample import block_sum, classify, enlarge, shrink, spread

#: A context larger than this is first averaged in whole blocks, which is cheaper and hardly differs.
_LARGE = 1024

#: How far from one the length of a network's vectors may be.
_UNIT_SLACK = 0.02


def prepare_batch(normals: FloatArray, hole: BoolArray, valid: BoolArray, space: str) -> FloatArray:
    """The network's input; the one home of its channel layout (`modelcard.INPUT_CHANNELS`).

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), what to fill.
        valid: bool (h, w), where there is a surface.
        space: "tangent", "object" or "camera".

    Returns:
        float32 (8, h, w): normals where known and zero elsewhere, hole, valid, one-hot space.
    """
    batch = np.zeros((8, *hole.shape), np.float32)
    known = valid & ~hole
    np.multiply(np.moveaxis(normals, -1, 0), known, out=batch[:3])
    batch[3] = hole & valid
    batch[4] = valid
    batch[5 + SPACES.index(space)] = 1
    return batch


@dataclass(frozen=True)
class _Context:
    """What the network saw and said: a smooth field with no seam, on its own grid.

    `field` is float32 (h, w, 3). A place p on the crop's axis (texel centres at whole numbers) lies at
    (p + 0.5 - top) * h / tall - 0.5 on the grid's axis; likewise across.
    """

    field: FloatArray
    top: int
    left: int
    tall: int
    broad: int


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


#: The last input of each engine and what it answered: neighbouring crops of one map share their context.
_last: weakref.WeakKeyDictionary[object, tuple[bytes, FloatArray]] = weakref.WeakKeyDictionary()


def _run(engine: Engine, batch: FloatArray) -> FloatArray:
    """The network's answer, checked: float32 (8, h, w) to (h, w, 3), unit.

    It is asked twice, about the map and about its mirror image, and the mean direction is taken: the two
    answers err differently, so their mean errs less (measured on held-out heads: 3 % less in large holes).
    """
    digest = hashlib.sha256(batch.shape.__repr__().encode() + batch.tobytes()).digest()
    remembered = _last.get(engine)
    if remembered is not None and remembered[0] == digest:
        return remembered[1]
    answers = np.asarray(engine.run(np.stack([batch, _mirrored(batch)])))
    if answers.shape != (2, 3, *batch.shape[1:]):
        raise InpaintError("bad_result", detail=f"shape {answers.shape} for two inputs of {batch.shape}")
    length = np.sqrt(np.einsum("nijk,nijk->njk", answers, answers))
    if not np.isfinite(length).all():
        raise InpaintError("bad_result", detail="the network's output is not finite")
    if float(np.abs(length - 1).max()) > _UNIT_SLACK:
        raise InpaintError("bad_result", detail=f"vectors of length {length.min():.3g} to {length.max():.3g}")
    total = answers[0] + _mirrored(answers[1])
    result = unit(np.ascontiguousarray(np.moveaxis(total, 0, -1), dtype=np.float32))
    _last[engine] = (digest, result)
    return result


def _mirrored(planes: FloatArray) -> FloatArray:
    """Planes (c, h, w) seen in a mirror: columns reversed, and x, the first plane, negated."""
    result = planes[:, :, ::-1].copy()
    result[0] *= -1
    return result


def _letterbox(size: int, side: int) -> slice:
    """Where an axis of that size lies in the middle of a longer one."""
    start = (side - size) // 2
    return slice(start, start + size)


def _predict(crop: Crop, engine: Engine) -> _Context:
    """Run the network on the crop's context and close the seam on its own grid."""
    if crop.wide is None:
        normals, hole, valid = crop.normals, crop.hole & crop.valid, crop.valid
        step, top, left = 1, 0, 0
    else:
        normals, hole, valid = crop.wide.normals, crop.wide.hole & crop.wide.valid, crop.wide.valid
        step, top, left = crop.wide.step, crop.wide.top, crop.wide.left
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
        tall, broad = hole.shape[0] * block * step, hole.shape[1] * block * step
    card = engine.card
    longest = max(hole.shape)
    scale = min(1.0, card.working_size / longest)
    height = max(1, round(hole.shape[0] * scale))
    width = max(1, round(hole.shape[1] * scale))
    multiple = card.size_multiple
    side = min(card.working_size, -(-max(height, width) // multiple) * multiple)
    normals, hole, valid = shrink(normals, hole, valid, height, width)
    known = valid & ~hole
    if not known.any():
        raise InpaintError("no_context")
    rows, columns = _letterbox(height, side), _letterbox(width, side)
    boxed_normals = np.zeros((side, side, 3), np.float32)
    boxed_hole = np.zeros((side, side), np.bool_)
    boxed_valid = np.zeros((side, side), np.bool_)
    boxed_normals[rows, columns] = normals
    boxed_hole[rows, columns] = hole
    boxed_valid[rows, columns] = valid
    answer = _run(engine, prepare_batch(boxed_normals, boxed_hole, boxed_valid, crop.space))
    # Known texels hold what is known; past the edge of the surface the field must stay harmless, for the
    # interpolation to native texels reaches two texels far.
    field = np.where(known[..., None], normals, answer[rows, columns])
    planes = np.ascontiguousarray(np.moveaxis(answer[rows, columns], -1, 0))
    field[hole] = close_seam(planes, normals, hole, known)
    return _Context(spread(field, known | hole), top, left, tall, broad)


def close_seam(
    predicted: FloatArray, normals: FloatArray, unknown: BoolArray, known: BoolArray
) -> FloatArray:
    """The prediction in the hole, changed as little as possible so that it meets the known texels around.

    The difference on the hole's border is continued harmonically into the hole and added, and the sum is
    normalised. Parts of the hole that touch no known texel keep the prediction.

    Args:
        predicted: float32 (3, h, w), planes first, of any length above zero.
        normals: float32 (h, w, 3), unit at known texels.
        unknown: bool (h, w), the hole.
        known: bool (h, w), known texels; neither is a wall.

    Returns:
        float32 (n, 3), unit: the texels of the hole in reading order.
    """
    border = harmonic.border_of(unknown, known)
    difference = np.zeros(predicted.shape, np.float32)
    y, x = np.nonzero(border)
    difference[:, y, x] = (normals[y, x] - unit(np.ascontiguousarray(predicted[:, y, x].T))).T
    difference = harmonic.extend(difference, border, unknown)
    # Only the hole's own texels from here on: of thin strands they are a small part of the box.
    places = np.flatnonzero(unknown)
    inside = unit(np.ascontiguousarray(predicted.reshape(3, -1)[:, places].T))
    inside += difference.reshape(3, -1)[:, places].T
    return unit(inside)


def _stop_if(cancel: Cancel) -> None:
    if cancel():
        raise Cancelled()


def fill_crop(
    crop: Crop, engine: Engine, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
) -> FloatArray:
    """Fill the hole of a crop.

    The context is averaged down to the network's working size, the prediction brought back by smooth
    interpolation, its seam closed at native resolution, and, if the crop asks for it, fine detail
    continued from the surroundings.

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
    result = np.zeros(crop.normals.shape, np.float32)
    result[..., 2] = 1
    np.copyto(result, crop.normals, where=known[..., None])
    if not hole.any():
        return result
    progress(0.0, "Predicting the shape")
    context = _predict(crop, engine)
    _stop_if(cancel)
    progress(0.4, "Closing the seam")
    # Native work is limited to the hole's own box, with the texel around it that carries the border.
    low_y, high_y = _extent(np.asarray(hole.any(axis=1)))
    low_x, high_x = _extent(np.asarray(hole.any(axis=0)))
    box = slice(low_y, high_y), slice(low_x, high_x)
    grid_h, grid_w = context.field.shape[:2]
    rows = (np.arange(low_y, high_y) + 0.5 - context.top) * grid_h / context.tall - 0.5
    columns = (np.arange(low_x, high_x) + 0.5 - context.left) * grid_w / context.broad - 0.5
    planes = enlarge(context.field, rows, columns)
    _stop_if(cancel)
    closed = close_seam(planes, crop.normals[box], hole[box], known[box])
    del planes
    result[box][hole[box]] = closed
    _stop_if(cancel)
    if crop.detail:
        from .detail import add_detail

        progress(0.6, "Continuing the detail")

        def detail_progress(fraction: float, text: str) -> None:
            progress(0.6 + 0.4 * fraction, text)

        detailed = add_detail(
            result,
            crop.normals,
            hole,
            crop.valid,
            crop.space,
            max(1.0, context.tall / grid_h),
            np.random.default_rng(crop.seed),
            progress=detail_progress,
            cancel=cancel,
        )
        np.copyto(result, unit(detailed), where=hole[..., None])
        _stop_if(cancel)
    progress(1.0, "Filled")
    return result


def _extent(flags: BoolArray) -> tuple[int, int]:
    """First and last set flag of an axis, as a range one wider on each side, within the axis."""
    places = np.flatnonzero(flags)
    return max(0, int(places[0]) - 1), min(flags.size, int(places[-1]) + 2)


class LocalFiller:
    """A `Filler` with its engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def fill(
        self, crop: Crop, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
    ) -> FloatArray:
        """See `fill_crop`."""
        return fill_crop(crop, self.engine, progress=progress, cancel=cancel)
