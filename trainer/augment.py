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


@dataclass(frozen=True)
class Scan:
    """How scanned surfaces differ from modelled ones, one for each map of a batch, in camera space.

    Attributes:
        strength: (n,) standard deviation of the slopes of bumps that no model of heads has: hair, stubble,
            cloth, a scanner's errors; 0 for none.
        wavelength: (n,) of the largest of them, as a share of the map's side.
        stretch: (n,) how many times as long as broad they are.
        angle: (n,) which way they run, radians.
        cover: (n,) on which share of the map they are.
        blur: (n,) standard deviation of a blur before that, as a share of the map's side: scans have no sharp
            lids. 0 for none.
        smeared: (n,) on which share of the map it is blurred.
        seed: of the bumps themselves.
    """

    strength: NDArray[np.float32]
    wavelength: NDArray[np.float32]
    stretch: NDArray[np.float32]
    angle: NDArray[np.float32]
    cover: NDArray[np.float32]
    blur: NDArray[np.float32]
    smeared: NDArray[np.float32]
    seed: int


def draw_scan(rng: np.random.Generator, count: int, share: float) -> Scan:
    """Draw how scans differ for a share of the maps: few have strong bumps everywhere."""
    there = rng.random(count) < share
    cover = rng.beta(1, 1.5, count)
    strongest = np.where(cover > 0.6, 0.12, 0.7)
    strength = np.exp(rng.uniform(np.log(0.02), np.log(strongest))) * (there & (rng.random(count) < 0.75))
    blur = np.exp(rng.uniform(np.log(0.002), np.log(0.012), count)) * (there & (rng.random(count) < 0.7))
    smeared = np.where(rng.random(count) < 0.6, 1.0, rng.uniform(0.2, 0.8, count))
    wavelength = np.exp(rng.uniform(np.log(0.02), np.log(0.3), count))
    stretch = np.exp(rng.uniform(0, np.log(5), count) * (rng.random(count) < 0.5))
    return Scan(
        strength=strength.astype(np.float32),
        wavelength=wavelength.astype(np.float32),
        stretch=stretch.astype(np.float32),
        angle=rng.uniform(0, np.pi, count).astype(np.float32),
        cover=cover.astype(np.float32),
        blur=blur.astype(np.float32),
        smeared=smeared.astype(np.float32),
        seed=int(rng.integers(2**31)),
    )


#: Side of the white noise that bumps are drawn from, octaves of them, and what each has of the last one's
#: height. Side of the white noise that patches are drawn from, and of the grid on which they are.
GRAIN, OCTAVES, FALL = 96, 3, 0.5
PATCHES, PATCH_GRID = 8, 64


def with_scan(normals: Tensor, valid: Tensor, scan: Scan) -> Tensor:
    """Maps (n, 3, s, s) in camera space, unit or zero off the surface (n, 1, s, s), as if they were scanned.

    Bumps change a normal n to n - g + (g . n) n, made a unit vector, where g are their slopes in the picture.
    """
    chosen = np.flatnonzero((scan.strength > 0) | (scan.blur > 0))
    if not chosen.size:
        return normals
    device, size = normals.device, normals.shape[-1]
    count = chosen.size
    generator = torch.Generator(device).manual_seed(scan.seed)

    def plain(values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values[chosen]).to(device).reshape(-1, 1, 1, 1)

    def white(channels: int, side: int) -> Tensor:
        return torch.randn(count, channels, side, side, generator=generator, device=device)

    index = torch.from_numpy(chosen).to(device)
    surface, result = valid[index], normals[index]
    # Soft patches, whose values are near to standard normal, so that a quantile of that tells their share.
    patches = functional.interpolate(white(2, PATCHES), PATCH_GRID, mode="bicubic", align_corners=False)
    patches = patches / patches.std(dim=(2, 3), keepdim=True)
    shares = torch.cat([plain(scan.smeared), plain(scan.cover)], dim=1)
    patches = ((torch.special.ndtri(shares.clamp(1e-3, 1)) - patches) / 0.3 + 0.5).clamp(0, 1)
    patches = functional.interpolate(patches, size, mode="bilinear", align_corners=False)
    for i, blur in enumerate(scan.blur[chosen]):
        if blur > 0:
            blurred = _blurred(result[i : i + 1], surface[i : i + 1], float(blur) * size)
            result[i] = torch.lerp(result[i], blurred[0], patches[i, :1])
    across = 2 / GRAIN / plain(scan.wavelength)
    cos, sin = torch.cos(plain(scan.angle)) * across, torch.sin(plain(scan.angle)) * across
    stretch = plain(scan.stretch)
    theta = torch.cat(
        [
            torch.cat([cos / stretch, sin / stretch, 0 * cos], dim=3),
            torch.cat([-sin, cos, 0 * cos], dim=3),
        ],
        dim=2,
    )[:, 0]
    grid = functional.affine_grid(theta, [count, 1, size, size], align_corners=False)
    height = torch.zeros(count, 1, size, size, device=device)
    for octave in range(OCTAVES):
        part = functional.grid_sample(white(1, GRAIN), grid * 2**octave, "bicubic", "reflection", False)
        height = height + FALL**octave * part
    padded = functional.pad(height, (1, 1, 1, 1), mode="replicate")
    right = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    up = padded[..., :-2, 1:-1] - padded[..., 2:, 1:-1]
    deviation = (right.square() + up.square()).mean(dim=(1, 2, 3), keepdim=True).sqrt()
    scale = plain(scan.strength) * patches[:, 1:] / deviation.clamp_min(1e-6)
    right, up = right * scale, up * scale
    inward = right * result[:, :1] + up * result[:, 1:2]
    slopes = torch.cat([right, up, torch.zeros_like(up)], dim=1)
    result = result - slopes + inward * result
    # What a camera sees faces it.
    result[:, 2:].clamp_(min=0.02)
    length = result.square().sum(dim=1, keepdim=True).sqrt()
    result = result / length * surface
    return normals.index_copy(0, index, result)


def _blurred(normals: Tensor, valid: Tensor, deviation: float) -> Tensor:
    """Maps (n, 3, s, s) blurred on their surface alone."""
    reach = max(1, round(2.5 * deviation))
    steps = torch.arange(-reach, reach + 1, device=normals.device, dtype=normals.dtype)
    weights = torch.exp(-0.5 * (steps / deviation) ** 2)
    both = torch.cat([normals * valid, valid], dim=1)
    kernel = (weights / weights.sum()).expand(both.shape[1], 1, -1)
    both = functional.conv2d(both, kernel[..., None], padding=(reach, 0), groups=both.shape[1])
    both = functional.conv2d(both, kernel[:, :, None], padding=(0, reach), groups=both.shape[1])
    return both[:, :3] / both[:, 3:].clamp_min(1e-6)


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
