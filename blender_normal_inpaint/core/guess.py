"""The first guess that the network sees in a hole, and improves on: what is known, continued."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import tension
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


#: In camera space a mirror image less unlike the map than this is shown to the network. Measured on six
#: held-out heads: below 0.05 it is 2 to 10 degrees off in large holes, above 0.15 23 to 37.
TELLING = 0.3


@dataclass(frozen=True)
class Guess:
    """What is thought of a map's hole before the network is asked.

    Attributes:
        field: float32 (h, w, 3), the known normals, the guess in the hole (unit, or zero where nothing known
            can reach), zero off the surface.
        sure: bool (h, w), texels of the hole where the other half tells so well that it is more than a guess.
        mirror: float32 (h, w, 3), the map's mirror image laid over it, its seam closed in the hole: unit, or
            zero where it says nothing.
        trust: how alike both are, 1 for twins, 0 if there is no mirror image.
    """

    field: FloatArray
    sure: BoolArray
    mirror: FloatArray
    trust: float


def first_guess(
    normals: FloatArray,
    hole: BoolArray,
    valid: BoolArray,
    space: str,
    scale: float = 1.0,
    steps: int = tension.STEPS,
) -> Guess:
    """Continue the known texels into the hole, level and slope, and the other half of a UV layout with them.

    Args:
        normals: float32 (h, w, 3), unit at known texels, finite everywhere.
        hole: bool (h, w), within valid.
        valid: bool (h, w), where there is a surface.
        space: "tangent", "object" or "camera". In camera space the other half is shown and not believed, for
            a head hardly ever looks straight into the camera.
        scale: texels of the network's grid for one of these.
        steps: of the solver, at most.
    """
    known = valid & ~hole
    result: FloatArray = normals * known[..., None]
    unknown = hole & valid
    sure = np.zeros(hole.shape, np.bool_)
    if not unknown.any() or not known.any():
        return Guess(result, sure, np.zeros_like(result), 0.0)
    like = TELLING if space == "camera" else LIKE
    image, seen, unlikeness = mirror_image(normals, hole, valid, space, like)
    there = unknown & seen
    if there.any():
        change = continued(normals - image, there, known & seen, REACH / scale, steps)
        image[there] = unit(image[there] + change)
        if space != "camera":
            result[there] = image[there]
            known, unknown = known | there, unknown & ~there
            if unlikeness < SURE:
                sure = there
    if unknown.any():
        guess = continued(result, unknown, known, REACH / scale, steps)
        length = np.linalg.norm(guess, axis=-1, keepdims=True)
        result[unknown] = guess / np.maximum(length, 1e-6) * (length > 1e-3)
    return Guess(result, sure, image * valid[..., None], max(0.0, 1 - unlikeness / like))
