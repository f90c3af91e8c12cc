"""The first guess that the network sees in a hole, and improves on: what is known, continued."""

from __future__ import annotations

import numpy as np

from . import harmonic, tension
from .closing import continued
from .engine import BoolArray, FloatArray
from .normals import unit
from .symmetry import LIKE, mirror_image

#: How far slopes lead, in texels of the network's grid. Measured on held-out heads at 160 texels: 4 is better
#: than 1.4 in thin holes (lines 3.81 and 4.03 degrees) and in large ones; more gains nothing.
REACH = 4.0

#: A mirror image that is less unlike the map than this is believed. Measured on eight held-out heads'
#: layouts (0.002 to 0.023): what it brings is 2.8 to 7.2 degrees off where one side is hidden, what the
#: network makes of it 7.5 to 11.9.
SURE = 0.03

#: In camera space a mirror image that is less unlike the map than the first of these counts as much as the
#: network's answer, and one more unlike than the second not at all. Measured on fourteen held-out heads with
#: half hidden: below 0.008 8.8 degrees become 7.3, at 0.02 one head gains and two lose.
TWINS = (0.008, 0.018)


def first_guess(
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    space: str,
    scale: float = 1.0,
    steps: int = tension.STEPS,
) -> tuple[FloatArray, BoolArray]:
    """Continue the known texels into the hole, level and slope, and the other half of a UV layout with them.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        space: "tangent", "object" or "camera". In camera space the other half is left alone, see `with_twin`.
        scale: texels of the network's grid for one of these.
        steps: of the solver, at most.

    Returns:
        float32 (h, w, 3): the known normals, the guess in the hole (unit, or zero where nothing known can
        reach), zero off the surface; and bool (h, w), texels of the hole where the other half tells so well
        that it is more than a guess.
    """
    known = valid & ~hole
    result: FloatArray = normals * known[..., None]
    unknown = hole & valid
    sure = np.zeros(hole.shape, np.bool_)
    if not unknown.any() or not known.any():
        return result, sure
    if space != "camera":
        twin, there, unlikeness = _other_half(normals, unknown, known, space, LIKE, scale, steps)
        if there.any():
            result[there] = twin
            known, unknown = known | there, unknown & ~there
            if unlikeness < SURE:
                sure = there
    if unknown.any():
        guess = continued(result, unknown, known, REACH / scale, steps)
        length = np.linalg.norm(guess, axis=-1, keepdims=True)
        result[unknown] = guess / np.maximum(length, 1e-6) * (length > 1e-3)
    return result, sure


def with_twin(
    predicted: FloatArray, normals: FloatArray, hole: BoolArray, valid: BoolArray, scale: float = 1.0
) -> FloatArray:
    """The mean of an answer and of what the other half of a face shows that looks straight into the camera.

    Both err differently, so that their mean errs less than either. A head that looks aside by some degrees is
    not its own mirror image: how unlike both are tells it, and then the answer stays as it is.

    Args:
        predicted: float32 (h, w, 3), unit in the hole, in camera space, its seam closed.
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        scale: texels of the network's grid for one of these.

    Returns:
        float32 (h, w, 3): unit in the hole, `predicted` elsewhere.
    """
    known = valid & ~hole
    twin, there, unlikeness = _other_half(normals, hole, known, "camera", TWINS[1], scale, tension.STEPS)
    if not there.any():
        return predicted
    weight = np.float32(min(1.0, (TWINS[1] - unlikeness) / (TWINS[1] - TWINS[0])))
    change = np.zeros(normals.shape, np.float32)
    change[there] = (twin - predicted[there]) * (weight / (1 + weight))
    # What the other half does not show follows what it does: no step between them.
    unseen = hole & ~there
    if unseen.any():
        planes = np.ascontiguousarray(np.moveaxis(change, -1, 0))
        planes = harmonic.extend(planes, harmonic.border_of(unseen, known | there), unseen)
        change[unseen] = planes[:, unseen].T
    result = predicted.copy()
    result[hole] = unit(predicted[hole] + change[hole])
    return result


def _other_half(
    normals: FloatArray,
    unknown: BoolArray,
    known: BoolArray,
    space: str,
    like: float,
    scale: float,
    steps: int,
) -> tuple[FloatArray, BoolArray, float]:
    """What the other half shows of a hole, its seam closed.

    Returns:
        float32 (n, 3), unit: texels in reading order; bool (h, w), where they lie: nowhere, if the map is
        more unlike its mirror image than `like`; and how unlike both are.
    """
    image, seen, unlikeness = mirror_image(normals, unknown, known | unknown, space, like)
    there = unknown & seen
    if not there.any():
        return np.zeros((0, 3), np.float32), there, unlikeness
    change = continued(normals - image, there, known & seen, REACH / scale, steps)
    return unit(image[there] + change), there, unlikeness
