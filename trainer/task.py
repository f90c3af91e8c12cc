"""From shards to training batches: pick, augment, mask, build the network's input."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from blender_normal_inpaint.core.fill import prepare_batch
from blender_normal_inpaint.core.guess import first_guess

from .augment import Moves, apply_moves, draw_moves, draw_noise, draw_scan, with_noise, with_scan
from .masks import draw_mask
from .shards import SPACES, Shard

Drawn = TypeVar("Drawn")

#: Steps of the solver for a guess: near the one that the extension makes, in a third of the time.
GUESS_STEPS = 30


@dataclass
class Batch:
    """One training batch.

    Attributes:
        inputs: (n, 11, s, s) the network's input.
        truth: (n, 3, s, s) unit normals, zero off the surface.
        hole: (n, 1, s, s) 1 where the map is hidden.
        valid: (n, 1, s, s) 1 on the surface, as it really is.
    """

    inputs: Tensor
    truth: Tensor
    hole: Tensor
    valid: Tensor

    def _each(self, change: Callable[..., Tensor], *others: Batch) -> Batch:
        """What becomes of each tensor, with its like of other batches."""
        names = (field.name for field in fields(Batch))
        return Batch(*(change(*(getattr(batch, name) for batch in (self, *others))) for name in names))

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch where a GPU can fetch it by itself."""
        return self._each(Tensor.pin_memory)

    def joined(self, *others: Batch) -> Batch:
        """This batch's maps and those of others, of the same size, after them."""
        return self._each(lambda *parts: torch.cat(parts), *others)

    @property
    def given(self) -> Tensor:
        """(n, 3, s, s) the map as the network sees it, with a capture's noise; zero in the hole."""
        return self.inputs[:, :3]

    def composite(self, predicted: Tensor) -> Tensor:
        """The repaired map: known texels kept, the hole filled, nothing off the surface."""
        return torch.where(self.hole > 0, predicted, self.truth) * self.valid


def build_inputs(truth: Tensor, hole: Tensor, shown_valid: Tensor, spaces: Sequence[str]) -> Tensor:
    """The network's inputs, (n, channels, s, s), by the code that makes them for the extension.

    Args:
        truth: (n, 3, s, s) unit normals, zero off the surface.
        hole: (n, 1, s, s) what is hidden.
        shown_valid: (n, 1, s, s) what the network is told is surface: outside the hole the truth.
        spaces: of each map.
    """
    batch = []
    for i, space in enumerate(spaces):
        shown = shown_valid[i, 0].numpy() > 0
        hidden = shown & (hole[i, 0].numpy() > 0)
        normals = truth[i].permute(1, 2, 0).numpy()
        guess, _ = first_guess(normals, hidden, shown, space, steps=GUESS_STEPS)
        batch.append(prepare_batch(normals, hidden, shown, space, guess))
    return torch.from_numpy(np.stack(batch))


def shrunk(packed: Tensor, factor: int) -> Tensor:
    """Average packed maps (n, h, w, 3) uint8 over factor x factor texels, surface texels only."""
    maps = packed.permute(0, 3, 1, 2).float()
    valid = (maps.amax(dim=1, keepdim=True) > 0).float()
    share = functional.avg_pool2d(valid, factor)
    mean = functional.avg_pool2d(maps * valid, factor) / share.clamp_min(1e-6)
    return torch.where(share >= 0.5, mean.round(), 0).to(torch.uint8).permute(0, 2, 3, 1)


def shrink(normals: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """`shrunk` for arrays."""
    if factor == 1:
        return normals
    count, height, width, _ = normals.shape
    result = np.empty((count, height // factor, width // factor, 3), np.uint8)
    # A few at a time: among large arrays that go again, small ones that stay would leave gaps in memory.
    for start in range(0, count, 8):
        part = slice(start, start + 8)
        result[part] = shrunk(torch.from_numpy(normals[part]), factor).numpy()
    return result


def moved(packed: NDArray[np.uint8] | Tensor, moves: Moves, size: int) -> tuple[Tensor, Tensor]:
    """A shard's maps (n, h, w, 3), unpacked and moved: normals (n, 3, s, s) and surface (n, 1, s, s)."""
    maps = torch.as_tensor(packed).permute(0, 3, 1, 2).float()
    valid = (maps.sum(dim=1, keepdim=True) > 0).float()
    return apply_moves((maps - 128) / 127 * valid, valid, moves, size)


def draw_masks(
    rng: np.random.Generator,
    maps: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]],
    mask_weights: Mapping[str, float],
) -> NDArray[np.bool_]:
    """A mask for each map, (n, s, s).

    Args:
        rng: decides everything.
        maps: (s, s, 3) normals and the (s, s) surface of each.
        mask_weights: how often each mask style is drawn.
    """
    masks = []
    for normals, surface in maps:
        # Zoomed into nothing: an empty map teaches nothing, and costs nothing.
        there = surface.any()
        masks.append(draw_mask(rng, surface, mask_weights, normals) if there else np.zeros_like(surface))
    return np.stack(masks)


def draw_holes(
    rng: np.random.Generator,
    truth: Tensor,
    valid: Tensor,
    mask_weights: Mapping[str, float],
    known_valid: float,
) -> tuple[Tensor, Tensor]:
    """A hole for each map, and what the network is told is surface, (n, 1, s, s) each.

    Args:
        rng: decides everything.
        truth: (n, 3, s, s) unit normals, zero off the surface.
        valid: (n, 1, s, s).
        mask_weights: how often each mask style is drawn.
        known_valid: share of maps whose surface is shown in the hole, too; the others' hole is all surface.
    """
    maps = zip(truth.permute(0, 2, 3, 1).numpy(), valid[:, 0].numpy() > 0, strict=True)
    hole = torch.from_numpy(draw_masks(rng, maps, mask_weights)).float().unsqueeze(1)
    told = torch.from_numpy((rng.random(len(truth)) < known_valid).astype(np.float32)).reshape(-1, 1, 1, 1)
    return hole, torch.maximum(valid, hole * (1 - told))


class _Steps(Dataset[Batch]):
    """The batch of every step, drawn from that step's own random state."""

    def __init__(self, data: ShardSet, seed: Sequence[int], draw: dict[str, Any]):
        self._data, self._seed, self._draw = data, seed, draw

    def __getitem__(self, step: int) -> Batch:
        return self._data.batch(np.random.default_rng([*self._seed, step]), **self._draw)


def batches(
    data: ShardSet,
    first: int,
    seed: Sequence[int],
    count: int,
    mask_weights: Mapping[str, float],
    *,
    known_valid: float,
    zoom: tuple[float, float],
    noise: float = 0.0,
    scans: float = 0.0,
    loaders: int = 0,
) -> Iterator[Batch]:
    """Batches without end, one for each step of a run.

    A step's batch depends on the seed and the step alone, so that a run that goes on sees what it would have
    seen, however many processes draw ahead.

    Args:
        data: the maps; a loader's process sees those that were loaded when this was called.
        first: the first step.
        seed: of the run and the process.
        count: maps per batch.
        mask_weights: as for `ShardSet.batch`.
        known_valid: likewise.
        zoom: likewise.
        noise: likewise.
        scans: likewise.
        loaders: how many processes draw ahead; 0 draws when asked.
    """
    draw = {"count": count, "mask_weights": mask_weights, "known_valid": known_valid}
    draw |= {"zoom": zoom, "noise": noise, "scans": scans}
    steps = _Steps(data, seed, draw)
    return drawn(steps, itertools.count(first), loaders)


def drawn(steps: Dataset[Drawn], numbers: Iterable[int], loaders: int) -> Iterator[Drawn]:
    """What a data set holds at each number in turn, drawn ahead by so many processes; 0 draws when asked."""
    if loaders == 0:
        return map(steps.__getitem__, numbers)
    # Forked, the processes share the maps that are in memory.
    context = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    loader = DataLoader(
        steps,
        sampler=numbers,
        batch_size=None,
        num_workers=loaders,
        multiprocessing_context=context,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def _reduction(side: int, size: int) -> int:
    """By what maps of a side are divided for a training size: less than three times that is left."""
    factor = 1
    while side // (2 * factor) >= size * 4 / 3:
        factor *= 2
    return factor


class ShardSet:
    """All maps of a folder of shards, by space, in memory; new shards are picked up by `refresh`.

    Args:
        folder: the shards of one split.
        size: training size; maps are kept at less than three times that.
        shares: how often each space is drawn, of those that are there.

    Raises:
        FileNotFoundError: the folder holds no shards.
    """

    def __init__(self, folder: Path, size: int, shares: Mapping[str, float]):
        self.folder, self.size, self.shares = folder, size, shares
        self._known: set[Path] = set()
        self._sides: set[int] = set()
        self._maps: dict[str, list[NDArray[np.uint8]]] = {space: [] for space in SPACES}
        self.refresh()
        if not self._known:
            raise FileNotFoundError(f"no shards in {folder}; run `python -m trainer prepare` first")

    def refresh(self) -> int:
        """Read shards that are new since the last time; returns how many."""
        fresh = sorted(set(self.folder.glob("*.npz")) - self._known)
        for path in fresh:
            self._keep(Shard.load(path))
            self._known.add(path)
        return len(fresh)

    def _keep(self, shard: Shard) -> None:
        self._maps[shard.space].extend(self._reduced(shard.normals))

    def _reduced(self, maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Maps (n, h, w, 3) at no more than what training needs of them."""
        self._sides.add(maps.shape[1])
        return shrink(maps, _reduction(maps.shape[1], self.size))

    def serve(self, size: int) -> bool:
        """Go on at another training size, if the maps in memory are the ones for it; returns whether."""
        if any(_reduction(side, size) != _reduction(side, self.size) for side in self._sides):
            return False
        self.size = size
        return True

    def __len__(self) -> int:
        return sum(len(maps) for maps in self._maps.values())

    def counts(self) -> dict[str, int]:
        """How many maps of each space are loaded."""
        return {space: len(maps) for space, maps in self._maps.items()}

    def batch(
        self,
        rng: np.random.Generator,
        count: int,
        mask_weights: Mapping[str, float],
        *,
        known_valid: float = 0.5,
        zoom: tuple[float, float] = (0.9, 1.7),
        noise: float = 0.0,
        scans: float = 0.0,
    ) -> Batch:
        """Draw a training batch.

        Args:
            rng: decides everything.
            count: how many maps.
            mask_weights: how often each mask style is drawn.
            known_valid: share of maps whose surface is shown to the network inside the hole too; in the
                others it is told "surface" there, as for users without a valid mask.
            zoom: smallest and largest enlargement.
            noise: share of maps with a capture's noise, none in tangent space; the truth has none.
            scans: share of camera-space maps that look scanned, as the truth does.
        """
        present = [space for space in SPACES if self._maps[space] and self.shares.get(space, 0) > 0]
        share = np.array([self.shares[space] for space in present])
        chosen = [str(s) for s in rng.choice(present, count, p=share / share.sum())]
        spaces: list[str] = []
        truths, valids = [], []
        for space in present:
            for maps in self._group(rng, space, chosen.count(space)):
                moves = draw_moves(rng, len(maps), space, zoom)
                truth, valid = moved(np.stack(maps), moves, self.size)
                if scans and space == "camera":
                    truth = with_scan(truth, valid, draw_scan(rng, len(maps), scans))
                truths.append(truth)
                valids.append(valid)
                spaces += [space] * len(maps)
        truth, valid = torch.cat(truths), torch.cat(valids)
        hole, shown = draw_holes(rng, truth, valid, mask_weights, known_valid)
        given = truth
        if noise:
            parts = [(space, truth[[s == space for s in spaces]]) for space in present]
            given = torch.cat(
                [with_noise(part, draw_noise(rng, len(part), space, noise)) for space, part in parts]
            )
        return Batch(build_inputs(given, hole, shown, spaces), truth, hole, valid)

    def _group(self, rng: np.random.Generator, space: str, n: int) -> list[list[NDArray[np.uint8]]]:
        """Draw n maps of a space, in lists of equal size of map."""
        maps = self._maps[space]
        by_size: dict[int, list[NDArray[np.uint8]]] = {}
        for i in rng.integers(len(maps), size=n):
            by_size.setdefault(maps[int(i)].shape[0], []).append(maps[int(i)])
        return [by_size[size] for size in sorted(by_size)]
