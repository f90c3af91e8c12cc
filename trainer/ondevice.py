"""Batches made on the training device, for a GPU that learns faster than loaders can make them.

What costs a loader most is moving a map and guessing its hole. Here the camera-space maps lie on the
device, are moved there and guessed there, all of a batch at once; loaders only decide which map is moved how,
and draw its hole, on a small copy. The few maps of other spaces, whose guess looks for the other half, come
from loaders whole.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from blender_normal_inpaint.core import guess, tension
from blender_normal_inpaint.core.modelcard import SPACES

from .augment import Moves, Noise, Scan, draw_moves, draw_noise, draw_scan, with_noise, with_scan
from .shards import Shard
from .task import Batch, ShardSet, batches, draw_masks, drawn, moved, shrunk

#: Steps of the solver on the finest grid and on each coarser one, where they cost little.
GUESS_STEPS = 24
COARSE_STEPS = 36

#: A map's small copy, by which holes are placed, has at least so many texels across.
SMALL = 64

#: How many times as long as a draft of a camera-space map a loader takes for a whole one of another space.
COST = 20

#: Roughness is looked at so many texels around a hole, see `core.closing`.
NEAR = 8


def _beside(field: Tensor) -> Tensor:
    """The sum of each texel's four neighbours, nothing beyond the border."""
    padded = functional.pad(field, (1, 1, 1, 1))
    return padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]


def _grown(flags: Tensor) -> Tensor:
    return torch.maximum(flags, (_beside(flags) > 0).to(flags.dtype))


def _operator(field: Tensor, near: Tensor, degree: Tensor, tight: Tensor) -> Tensor:
    """`core.tension`'s L^T L + t L of a field that is zero off the surface; right at unknown texels."""
    first = (degree * field - _beside(field)) * near
    return (degree + tight) * first - _beside(first)


def conjugate_step(
    direction: Tensor,
    solution: Tensor,
    residual: Tensor,
    energy: Tensor,
    near: Tensor,
    degree: Tensor,
    tight: Tensor,
    unknown: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of preconditioned conjugate gradients for each map of a batch."""
    image = _operator(direction, near, degree, tight) * unknown
    curvature = (direction * image).sum(dim=(1, 2, 3), keepdim=True)
    pace = torch.where(curvature > 1e-20, energy / curvature.clamp_min(1e-20), 0.0)
    solution = solution + pace * direction
    residual = residual - pace * image
    scaled = residual * inverse
    fresh = (residual * scaled).sum(dim=(1, 2, 3), keepdim=True)
    turn = torch.where(energy > 1e-20, fresh / energy.clamp_min(1e-20), 0.0)
    return scaled + turn * direction, solution, residual, fresh


def continued(
    values: Tensor,
    known: Tensor,
    unknown: Tensor,
    length: Tensor,
    steps: int = GUESS_STEPS,
    step: Callable[..., Any] = conjugate_step,
    noisy: Tensor | None = None,
) -> Tensor:
    """Values at known texels, continued into holes with their slopes, for all maps of a batch at once.

    `core.tension.extend`, but for its band and the end of its steps: each grid is solved everywhere, in as
    many steps for every map.

    Args:
        values: (n, c, h, w), sides even down to the coarsest grid, or `core.tension.COARSEST` at most.
        known: (n, 1, h, w) 1 where they are given.
        unknown: (n, 1, h, w) 1 where to continue them; what is neither is a wall.
        length: (n, 1, 1, 1) how far slopes lead, in texels.
        steps: on this grid; on the coarser ones `COARSE_STEPS`.
        step: `conjugate_step`, or what `torch.compile` makes of it.
        noisy: (n, 1, 1, 1) how much the next coarser grid's answer counts beside this one's; None: nothing.

    Returns:
        (n, c, h, w) the continuation at unknown texels, zero elsewhere.
    """
    given = values * known
    start = torch.zeros_like(given)
    height, width = unknown.shape[2:]
    if max(height, width) > tension.COARSEST:
        counts = 4 * functional.avg_pool2d(known, 2)
        means = 4 * functional.avg_pool2d(given, 2) / counts.clamp_min(1)
        coarse_unknown = (4 * functional.avg_pool2d(unknown, 2) > counts).to(known.dtype)
        coarse_known = (counts > 0).to(known.dtype) * (1 - coarse_unknown)
        coarse = continued(means, coarse_known, coarse_unknown, length / 2, COARSE_STEPS, step)
        coarse = coarse + means * coarse_known
        start = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear") * unknown
    valid = known + unknown
    degree = _beside(valid) * valid
    near = _grown(unknown) * valid
    tight = 1 / (length * length)
    inverse = unknown / (degree * degree + degree * (1 + tight)).clamp_min(1)
    residual = -_operator(given + start, near, degree, tight) * unknown
    direction = residual * inverse
    energy = (residual * direction).sum(dim=(1, 2, 3), keepdim=True)
    solution = start
    for _ in range(steps):
        direction, solution, residual, energy = step(
            direction, solution, residual, energy, near, degree, tight, unknown, inverse
        )
    return solution if noisy is None else torch.lerp(solution, start, noisy)


def roughness(values: Tensor, known: Tensor, unknown: Tensor, block: int = 1) -> Tensor:
    """Median Laplacian over median gradient around the holes, (n, 1, 1, 1): `core.closing.roughness`."""
    if block > 1:
        known, unknown = (
            (functional.avg_pool2d(known, block) == 1).to(known.dtype),
            (functional.avg_pool2d(unknown, block) > 0).to(known.dtype),
        )
        values = functional.avg_pool2d(values, block) * known
    area = unknown
    for _ in range(NEAR):
        area = _grown(area)
    whole = known * area * (_beside(known) == 4)
    laplacian = ((_beside(values) - 4 * values) ** 2).sum(dim=1, keepdim=True).sqrt()
    padded = functional.pad(values, (1, 1, 1, 1))
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    right = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    gradient = 0.5 * ((down**2).sum(dim=1, keepdim=True) + (right**2).sum(dim=1, keepdim=True)).sqrt()

    def median(field: Tensor) -> Tensor:
        # Of single texels every other one will do.
        every = 2 if block == 1 else 1
        kept = torch.where(whole > 0, field, torch.nan)[..., ::every, ::every].flatten(1)
        return kept.nanmedian(dim=1).values.nan_to_num(0.0)

    rough = median(laplacian) / median(gradient).clamp_min(1e-7)
    few = whole.sum(dim=(1, 2, 3)) < 16
    return torch.where(few, 0.0, rough).reshape(-1, 1, 1, 1)


@torch.no_grad()
def first_guesses(
    truth: Tensor, known: Tensor, unknown: Tensor, step: Callable[..., Any] = conjugate_step
) -> Tensor:
    """`core.guess.first_guess` of camera-space maps, all of a batch at once.

    Args:
        truth: (n, 3, s, s) unit at known texels.
        known: (n, 1, s, s).
        unknown: (n, 1, s, s).
        step: see `continued`.

    Returns:
        (n, 3, s, s) the known normals, the guess in the holes, zero off the surface.
    """
    rough = roughness(truth * known, known, unknown, guess.BLOCK)
    share = ((rough - guess.SHAPE) / (guess.SKIN - guess.SHAPE)).clamp(0, 1)
    noisy = (roughness(truth, known, unknown) - guess.CLEAN) / (guess.NOISE - guess.CLEAN)
    found = continued(truth, known, unknown, guess.REACH ** (1 - share), step=step, noisy=noisy.clamp(0, 1))
    size = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    filled: Tensor = truth * known + found / size.clamp_min(1e-6) * (size > 1e-3) * unknown
    return filled


def inputs_of(truth: Tensor, hole: Tensor, shown: Tensor, space: str, guess: Tensor) -> Tensor:
    """`core.fill.prepare_batch` for all maps of a batch, (n, 11, s, s), on their device."""
    one_hot = torch.zeros(len(truth), len(SPACES), *truth.shape[2:], device=truth.device)
    one_hot[:, SPACES.index(space)] = 1
    return torch.cat([truth * shown * (1 - hole), hole * shown, shown, one_hot, guess], dim=1)


@dataclass
class Draft:
    """What a loader decides about the camera-space maps of a batch.

    Attributes:
        index: (n,) which maps, ascending.
        moves: how they are moved.
        holes: uint8 (n, s * s / 8) what is hidden, eight texels in a byte.
        told: (n,) whether the network is told what is surface in the hole.
        noise: what a capture added to them.
        scan: how they differ as scans do.
    """

    index: NDArray[np.int64]
    moves: Moves
    holes: Tensor
    told: NDArray[np.bool_]
    noise: Noise
    scan: Scan

    def pin_memory(self) -> Draft:
        """The same draft where a GPU can fetch it by itself."""
        return replace(self, holes=self.holes.pin_memory())


class _Drafts(Dataset[Draft]):
    """The draft of every step, drawn from that step's own random state."""

    def __init__(self, small: NDArray[np.uint8], size: int, seed: Sequence[int], draw: Mapping[str, Any]):
        self._small, self._size, self._seed, self._draw = small, size, seed, draw

    def __getitem__(self, step: int) -> Draft:
        rng = np.random.default_rng([*self._seed, step])
        count, size = self._draw["count"], self._size
        index = np.sort(rng.integers(len(self._small), size=count))
        moves = draw_moves(rng, count, "camera", self._draw["zoom"])
        truth, valid = moved(self._small[index], moves, self._small.shape[1])
        large = (
            (
                cv2.resize(normals, (size, size), interpolation=cv2.INTER_LINEAR),
                cv2.resize(surface, (size, size), interpolation=cv2.INTER_NEAREST) > 0,
            )
            for normals, surface in zip(truth.permute(0, 2, 3, 1).numpy(), valid[:, 0].numpy(), strict=True)
        )
        holes = draw_masks(rng, large, self._draw["mask_weights"])
        packed = np.packbits(holes.reshape(count, -1), axis=1)
        told = rng.random(count) < self._draw["known_valid"]
        noise = draw_noise(rng, count, "camera", self._draw["noise"])
        scan = draw_scan(rng, count, self._draw["scans"])
        return Draft(index, moves, torch.from_numpy(packed), told, noise, scan)


class DeviceSet(ShardSet):
    """A `ShardSet` whose camera-space maps lie on a device, all of one size; small copies stay.

    Attributes:
        device: where the maps lie.
        small: uint8 (n, t, t, 3), all camera-space maps at `SMALL` texels or a little more.

    Args:
        folder: the shards of one split.
        size: training size.
        shares: how often each space is drawn, of those that are there.
        device: where the maps shall lie.

    Raises:
        ValueError: the camera-space maps are of several sizes.
        FileNotFoundError: the folder holds no shards.
    """

    def __init__(self, folder: Path, size: int, shares: Mapping[str, float], device: torch.device):
        self.device = device
        self.small = np.empty((0, 0, 0, 3), np.uint8)
        #: In the pieces in which they came: to join them would take the memory twice.
        self._pieces: list[Tensor] = []
        self._small: list[NDArray[np.uint8]] = []
        super().__init__(folder, size, shares)

    def _keep(self, shard: Shard) -> None:
        if shard.space != "camera":
            super()._keep(shard)
            return
        maps = torch.from_numpy(self._reduced(shard.normals)).to(self.device)
        side = maps.shape[1]
        if self._pieces and side != self._pieces[0].shape[1]:
            raise ValueError(
                "camera-space maps of several sizes: make them all of one, or train without on_device"
            )
        factor = max(1, side // SMALL)
        while side % factor:
            factor -= 1
        self._pieces.append(maps)
        self._small.append(shrunk(maps, factor).cpu().numpy())

    def refresh(self) -> int:
        """Read shards that are new since the last time; returns how many."""
        found = super().refresh()
        if found and self._small:
            self.small = np.concatenate(self._small)
            self._small = [self.small]
        return found

    def counts(self) -> dict[str, int]:
        """How many maps of each space are loaded."""
        return {**super().counts(), "camera": len(self.small)}

    def __len__(self) -> int:
        return sum(self.counts().values())

    def pick(self, index: NDArray[np.int64]) -> Tensor:
        """Camera-space maps by ascending numbers (n,): uint8 (n, h, w, 3) on the device."""
        ends = np.cumsum([len(piece) for piece in self._pieces])
        cuts = np.searchsorted(index, ends)
        parts, start = [], 0
        for piece, end, cut in zip(self._pieces, ends, cuts, strict=True):
            if cut > start:
                here = torch.from_numpy(index[start:cut] - (end - len(piece)))
                parts.append(piece[here.to(self.device)])
            start = cut
        return torch.cat(parts)


def device_batches(
    data: DeviceSet,
    first: int,
    seed: Sequence[int],
    count: int,
    mask_weights: Mapping[str, float],
    *,
    known_valid: float,
    zoom: tuple[float, float],
    noise: float = 0.0,
    scans: float = 0.0,
    echo: int = 1,
    loaders: int = 0,
    step: Callable[..., Any] = conjugate_step,
) -> Iterator[Batch]:
    """Batches without end, as `task.batches` draws them, on the device of the maps.

    How many of a batch are camera-space maps is the same in each. A map of another space takes a loader some
    twenty times as long; so each may be in several batches, one after the other, every one of which brings as
    many new ones (data echoing, Choi et al., arXiv 1907.05550).

    Args:
        data: the maps.
        first: the first step.
        seed: of the run and the process.
        count: maps per batch.
        mask_weights: as for `ShardSet.batch`.
        known_valid: likewise.
        zoom: likewise.
        noise: likewise.
        scans: likewise.
        echo: in how many batches a map of another space is.
        loaders: how many processes draw ahead; 0 draws when asked.
        step: see `continued`.
    """
    there = {space: data.shares.get(space, 0) for space, maps in data.counts().items() if maps}
    other = 1 - there.get("camera", 0) / sum(there.values())
    fresh = max(1, round(count * other / echo)) if other else 0
    camera = max(0, count - fresh * echo)
    draw = {"mask_weights": mask_weights, "known_valid": known_valid, "zoom": zoom, "noise": noise}
    draw |= {"scans": scans}
    whole = round(loaders * COST * fresh / (COST * fresh + camera))
    window: deque[Batch] = deque(maxlen=echo)
    if fresh:
        whole = max(1, min(whole, loaders - (camera > 0))) if loaders else 0
        start = max(0, first - echo + 1)
        stream = batches(
            data, start, seed, fresh, mask_weights, known_valid=known_valid, zoom=zoom, noise=noise,
            scans=scans, loaders=whole,
        )  # fmt: skip
        flat = (batch.to(data.device) for batch in stream)
        # Before the first step there were none: its own stand for them.
        window.extend([next(flat)] * echo)
        window.extend(itertools.islice(flat, first - start))
    drafts: Iterable[Draft | None] = itertools.repeat(None)
    if camera:
        numbers = itertools.count(first)
        ahead = _Drafts(data.small, data.size, (*seed, 1), {"count": camera, **draw})
        drafts = drawn(ahead, numbers, max(1, loaders - whole) if loaders else 0)
    for draft in drafts:
        parts = [] if draft is None else [finished(draft, data, step)]
        parts += window
        yield parts[0].joined(*parts[1:])
        if fresh:
            window.append(next(flat))


@torch.no_grad()
def finished(draft: Draft, data: DeviceSet, step: Callable[..., Any] = conjugate_step) -> Batch:
    """The batch that a draft tells of."""
    size, device = data.size, data.device
    packed = draft.holes.to(device, non_blocking=True)
    bits = torch.arange(7, -1, -1, device=device, dtype=torch.uint8)
    hole = ((packed[:, :, None] >> bits) & 1).reshape(-1, 1, size, size).float()
    told = torch.from_numpy(draft.told.astype(np.float32)).to(device).reshape(-1, 1, 1, 1)
    truth, valid = moved(data.pick(draft.index), draft.moves, size)
    truth = with_scan(truth, valid, draft.scan)
    shown = torch.maximum(valid, hole * (1 - told))
    given = with_noise(truth, draft.noise)
    guess = first_guesses(given, shown * (1 - hole), shown * hole, step)
    return Batch(inputs_of(given, hole, shown, "camera", guess), truth, hole, valid)
