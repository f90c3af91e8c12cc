"""Augmentation that turns the vectors with the picture.

A rotated picture of a face is the picture of a rotated face only if its normals are rotated too; a mirrored
one only if their x changes sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Moves:
    """One similarity transform per map of a batch.

    Attributes:
        angle: (n,) turn of the picture in radians, counter-clockwise on screen.
        zoom: (n,) above 1 enlarges.
        shift: (n, 2) the point of the source that comes to the middle, x right, y up, in half sides from
            the source's middle.
        flip: (n,) bool, mirror left and right first.
        turn: (n,) turn of the vectors in radians; equal to `angle` for camera and tangent space. In object
            space a turned UV layout leaves vectors alone.
    """

    angle: NDArray[np.float32]
    zoom: NDArray[np.float32]
    shift: NDArray[np.float32]
    flip: NDArray[np.bool_]
    turn: NDArray[np.float32]


def draw_moves(rng: np.random.Generator, count: int, space: str, zoom: tuple[float, float]) -> Moves:
    """Draw transforms: faces are mostly upright, detail has no upright.

    Args:
        rng: decides.
        count: how many.
        space: tangent, object or camera.
        zoom: smallest and largest enlargement.
    """
    any_angle = rng.random(count) < (0.7 if space == "tangent" else 0.1)
    angle = np.where(any_angle, rng.uniform(-np.pi, np.pi, count), rng.normal(0, 0.15, count))
    scale = np.exp(rng.uniform(np.log(zoom[0]), np.log(zoom[1]), count))
    reach = np.maximum(0.0, 1 - 1 / scale)[:, None] + 0.04
    turn = rng.normal(0, 0.06, count) if space == "object" else angle
    return Moves(
        angle.astype(np.float32),
        scale.astype(np.float32),
        (rng.uniform(-1, 1, (count, 2)) * reach).astype(np.float32),
        rng.random(count) < 0.5,
        turn.astype(np.float32),
    )


@dataclass(frozen=True)
class Noise:
    """What a capture adds to maps, one for each of a batch.

    Attributes:
        strength: (n,) standard deviation of each coordinate; 0 for none.
        soft: (n,) from 0, each texel for itself, to 1, the mean of nine.
        seed: of the noise itself.
    """

    strength: NDArray[np.float32]
    soft: NDArray[np.float32]
    seed: int


def draw_noise(rng: np.random.Generator, count: int, space: str, share: float) -> Noise:
    """Draw noise of 0.3 to 2 degrees for a share of the maps; none in tangent space: skin has its own."""
    there = rng.random(count) < (0.0 if space == "tangent" else share)
    strength = np.exp(rng.uniform(np.log(0.004), np.log(0.03), count)) * there
    soft = rng.random(count)
    return Noise(strength.astype(np.float32), soft.astype(np.float32), int(rng.integers(2**31)))


def with_noise(normals: Tensor, noise: Noise) -> Tensor:
    """Maps (n, 3, h, w), unit or zero off the surface, with noise on them, unit again."""
    if not noise.strength.any():
        return normals
    generator = torch.Generator(normals.device).manual_seed(noise.seed)
    white = torch.randn(normals.shape, generator=generator, device=normals.device)
    strength, soft = (
        torch.from_numpy(values).to(normals.device).reshape(-1, 1, 1, 1)
        for values in (noise.strength, noise.soft)
    )
    # The mean of nine has a third of their deviation.
    grain = torch.lerp(white, 3 * functional.avg_pool2d(white, 3, 1, 1), soft)
    surface = (normals * normals).sum(dim=1, keepdim=True) > 0.25
    noisy = normals + strength * grain
    length = 1e-6 + torch.linalg.vector_norm(noisy, dim=1, keepdim=True)
    return torch.where(surface & (strength > 0), noisy / length, normals)


def turned(vectors: Tensor, moves: Moves) -> Tensor:
    """Vectors (n, 3) or (n, 3, h, w) as the moves of their maps turn and mirror them."""
    shape = (-1,) + (1,) * (vectors.ndim - 2)
    sign = 1 - 2 * torch.from_numpy(moves.flip.astype(np.float32)).to(vectors.device).reshape(shape)
    turn = torch.from_numpy(moves.turn).to(vectors.device).reshape(shape)
    cos, sin = torch.cos(turn), torch.sin(turn)
    x, y = vectors[:, 0] * sign, vectors[:, 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y, vectors[:, 2]], dim=1)


def apply_moves(normals: Tensor, valid: Tensor, moves: Moves, size: int) -> tuple[Tensor, Tensor]:
    """Transform maps and their vectors.

    Args:
        normals: (n, 3, h, w) unit vectors, zero off the surface.
        valid: (n, 1, h, w) 1 on the surface, else 0.
        moves: the transforms.
        size: side of the result.

    Returns:
        (n, 3, size, size) unit vectors, zero off the surface, and (n, 1, size, size) surface. What lies
        outside the source is not surface.
    """
    angle = torch.from_numpy(moves.angle)
    inverse = 1 / torch.from_numpy(moves.zoom)
    sign = 1 - 2 * torch.from_numpy(moves.flip.astype(np.float32))
    shift = torch.from_numpy(moves.shift)
    cos, sin = torch.cos(angle) * inverse, torch.sin(angle) * inverse
    # Sampling goes from target to source: the inverse turn. Rows count downwards, so a turn that is
    # counter-clockwise on screen has the opposite sign in (column, row).
    theta = torch.stack(
        [
            torch.stack([sign * cos, -sign * sin, shift[:, 0]], dim=1),
            torch.stack([sin, cos, -shift[:, 1]], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(
        theta.to(normals.device), [len(normals), 1, size, size], align_corners=False
    )
    both = torch.cat([normals * valid, valid], dim=1)
    out = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    vectors, share = out[:, :3], out[:, 3:]
    vectors = turned(vectors, moves)
    length = (vectors * vectors).sum(dim=1, keepdim=True).sqrt()
    surface = (share >= 0.5) & (length > 1e-4)
    return vectors / length.clamp_min(1e-6) * surface, surface.float()
