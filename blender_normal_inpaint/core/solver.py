"""Large linear equations on the texels of a map, solved by conjugate gradients.

M. R. Hestenes and E. Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952;
preconditioned by the matrix's diagonal.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .engine import FloatArray


class System(Protocol):
    """Linear equations with a symmetric, positive matrix, for some fields at once.

    Attributes:
        target: float32, what the matrix must make of the unknowns, of their shape.
        inverse: float32, of about its diagonal, for preconditioning, of a shape that goes with theirs.
    """

    target: FloatArray
    inverse: FloatArray

    def __call__(self, values: FloatArray, /) -> FloatArray:
        """The matrix times values."""
        ...


def solve(system: System, start: FloatArray, steps: int, tolerance: float) -> FloatArray:
    """Solve the equations, or come near.

    Args:
        system: the equations.
        start: float32, a first guess at the unknowns.
        steps: at most taken.
        tolerance: relative residual at which it ends.

    Returns:
        float32, the unknowns.
    """
    target = system.target
    solution = start.copy()
    residual = target - system(solution)
    scaled: FloatArray = residual * system.inverse
    direction = scaled.copy()
    energy = float(np.vdot(residual, scaled))
    # Relative to the first residual, too: where nothing known pulls, the target is zero, which rounding
    # never reaches.
    goal = tolerance**2 * max(float(np.vdot(target, target * system.inverse)), energy, 1e-12)
    for _ in range(steps):
        if energy <= goal:
            break
        image = system(direction)
        curvature = float(np.vdot(direction, image))
        if curvature <= 0:
            break
        pace = np.float32(energy / curvature)
        solution += pace * direction
        residual -= pace * image
        np.multiply(residual, system.inverse, out=scaled)
        fresh = float(np.vdot(residual, scaled))
        direction *= np.float32(fresh / energy)
        direction += scaled
        energy = fresh
    return solution


def in_rows(planes: FloatArray) -> FloatArray:
    """Planes (c, n) as rows (n, k), k the next power of two, what is added zero.

    A row of 4, 8 or 16 bytes is fetched about as fast as a single number.
    """
    count = len(planes)
    rows = np.zeros((planes.shape[1], 1 << (count - 1).bit_length()), np.float32)
    rows[:, :count] = planes.T
    return rows
