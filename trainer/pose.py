"""The network that tells which way a head looks (`core.pose`): made from camera-space maps of heads."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from blender_normal_inpaint.core.modelcard import sha256_of
from blender_normal_inpaint.core.pose import CHANNELS, DOUBT, LEAK, SIZE, STRIDES

from . import checkpoint
from .augment import draw_moves, turned
from .files import replacing
from .optimizer import follow, learning_rate
from .shards import Shard, read_note
from .task import draw_holes, drawn, moved

#: How often each mask style is drawn: mostly those that hide much.
MASKS = {
    "half": 3.0, "blob": 2.0, "feature": 1.0, "brush": 1.0, "prop": 1.0, "scatter": 0.5, "lines": 0.5,
    "strands": 0.3, "stripe": 0.3, "crescent": 0.3,
}  # fmt: skip

#: Smallest and largest enlargement; share of maps whose surface is known inside the hole, too.
ZOOM, KNOWN_VALID = (0.65, 1.6), 0.6

#: Steps over which the learning rate rises; share of itself that the average of the weights keeps.
WARM_UP, EMA = 200, 0.998

#: Squared sine of the angle from which a direction's error counts less and less.
ROUGH = 0.003


@dataclass(frozen=True)
class Settings:
    """How the network is trained.

    Attributes:
        data: folder of shards.
        steps: how many, some 15 minutes on two cores.
        batch: maps for each.
        lr: learning rate at the start; it falls along a cosine to a fiftieth.
        seed: of everything drawn.
        loaders: processes that make batches ahead.
        threads: CPU threads.
        precision: "bfloat16" computes the convolutions in mixed precision, twice as fast where a processor
            has arithmetic for it; or "float32".
    """

    data: str
    steps: int = 20_000
    batch: int = 64
    lr: float = 1.5e-3
    seed: int = 1
    loaders: int = 1
    threads: int = 1
    precision: str = "float32"


class PoseNetwork(nn.Module):
    """Convolutions and two dense layers, as `core.pose` computes them: (n, 5, 64, 64) to (n, 4)."""

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 128, 192), dense: int = 128):
        super().__init__()
        channels = [CHANNELS, *widths]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride, 1)
            for a, b, stride in zip(channels, channels[1:], STRIDES, strict=False)
        )
        side = SIZE // math.prod(STRIDES)
        self.dense = nn.Linear(channels[-1] * side * side, dense)
        self.last = nn.Linear(dense, 4)
        for layer in (*self.convolutions, self.dense):
            nn.init.kaiming_normal_(layer.weight, a=LEAK)
            nn.init.zeros_(layer.bias)
        # At the start: as a head that looks straight ahead, and not sure.
        nn.init.normal_(self.last.weight, 0, 0.01)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([1.0, 0.0, 0.0, -2.0]))

    def forward(self, x: Tensor) -> Tensor:
        """A direction of any length and the logarithm of its doubt, see `core.pose.Pose`."""
        for layer in self.convolutions:
            x = functional.leaky_relu(layer(x), LEAK)
        answer: Tensor = self.last(functional.leaky_relu(self.dense(x.flatten(1)), LEAK))
        return answer

    def arrays(self) -> dict[str, Any]:
        """The weights as `core.pose` reads them, in half precision."""
        layers = [*self.convolutions, self.dense, self.last]
        named = {f"weight{i}": layer.weight for i, layer in enumerate(layers)}
        named |= {f"bias{i}": layer.bias for i, layer in enumerate(layers)}
        return {name: value.detach().numpy().astype(np.float16) for name, value in named.items()}


def errors(answers: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """How far the turn to the side is off, in radians, and the squared sine of the whole angle: (n,) each.

    A plane's normal has no sign: the nearer one is meant.
    """
    given = functional.normalize(answers[:, :3], dim=1)
    cosine = (given * across).sum(dim=1)
    z = torch.stack([given[:, 2], across[:, 2] * torch.sign(cosine)]).clamp(-0.999, 0.999)
    turn, truth = torch.asin(z)
    return turn - truth, 1 - cosine**2


def pose_loss(answers: Tensor, across: Tensor) -> Tensor:
    """How bad answers are: the likelihood of the turn to the side, and a robust measure of the whole angle.

    The turn's error is taken as normally distributed, with the doubt for its deviation (A. Kendall and
    Y. Gal, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?", 2017, equation 5).
    """
    turn, square = errors(answers, across)
    doubt = answers[:, 3].clamp(*DOUBT)
    likely = 0.5 * turn**2 * torch.exp(-2 * doubt) + doubt
    return (likely + 0.5 * torch.log1p(square / ROUGH)).mean()


class HeadMaps(Dataset[tuple[Tensor, Tensor]]):
    """The batch of every step, drawn from that step's own random state.

    Args:
        folder: the shards of a split.
        seed: of all batches.
        batch: maps for each.

    Raises:
        ValueError: no shard there tells which way its heads look.
    """

    def __init__(self, folder: Path, seed: Sequence[int], batch: int):
        maps, across = [], []
        for path in sorted(folder.glob("*.npz")):
            shard = Shard.load(path)
            if shard.across is not None:
                maps.append(shard.normals)
                across.append(shard.across)
        if not maps:
            raise ValueError(
                f"no shard in {folder} tells which way its heads look: make some with "
                "`python -m trainer prepare` from makehuman or ict"
            )
        self.maps, self.across = np.concatenate(maps), np.concatenate(across)
        self._seed, self._batch = seed, batch

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([*self._seed, step])
        chosen = rng.integers(len(self.maps), size=self._batch)
        moves = draw_moves(rng, self._batch, "camera", ZOOM)
        normals, valid = moved(self.maps[chosen], moves, SIZE)
        across = turned(torch.from_numpy(self.across[chosen]), moves)
        hole, shown = draw_holes(rng, normals, valid, MASKS, KNOWN_VALID)
        known = valid * (1 - hole)
        return torch.cat([normals * known, known, hole * shown], dim=1), across


@torch.no_grad()
def measure(network: PoseNetwork, data: HeadMaps, count: int = 8) -> dict[str, float]:
    """How far it is off on maps of a split, in degrees: the turn to the side, and the whole angle."""
    turn, angle = [], []
    for step in range(count):
        inputs, across = data[step]
        off, square = errors(network(inputs), across)
        turn.append(off.abs())
        angle.append(square.clamp(0, 1).sqrt().asin())
    turns, angles = (torch.rad2deg(torch.cat(parts)) for parts in (turn, angle))
    return {
        "turn_mean": round(float(turns.mean()), 2),
        "turn_median": round(float(turns.median()), 2),
        "angle_mean": round(float(angles.mean()), 2),
        "angle_median": round(float(angles.median()), 2),
    }


def train(run: Path, settings: Settings, say: Callable[[str], None] = print) -> PoseNetwork:
    """Train the network, or go on with a run; every thousand steps it is saved and measured.

    Args:
        run: the run's folder.
        settings: how; a run that goes on keeps its own seed and learning rate if these are the same.
        say: takes lines of progress.

    Returns:
        The averaged network.

    Raises:
        ValueError: the data hold no heads in camera space.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    run.mkdir(parents=True, exist_ok=True)
    folder = Path(settings.data)
    data = HeadMaps(folder / "train", (settings.seed,), settings.batch)
    test = HeadMaps(folder / "test", (12345,), settings.batch)
    network = PoseNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = PoseNetwork()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=1e-2)
    step, path = 0, run / "last.pt"
    if path.exists():
        state = checkpoint.load(path)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        say(f"continuing at step {step}")
    say(f"{len(data.maps)} maps")
    start, since, total = time.perf_counter(), step, 0.0
    for inputs, across in drawn(data, range(step, settings.steps), settings.loaders):
        rate = learning_rate(settings.lr, settings.lr / 50, step, step / settings.steps, WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"):
            answers = network(inputs.to(memory_format=torch.channels_last))
        loss = pose_loss(answers.float(), across)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        total += float(loss.detach())
        follow(average, network, step, EMA)
        if step % 1000 == 0 or step == settings.steps:
            speed = (step - since) * settings.batch / (time.perf_counter() - start)
            figures = measure(average, test)
            off = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            say(f"{step} loss {total / (step - since):.3f}, {speed:.0f} maps/s; test {off}")
            start, since, total = time.perf_counter(), step, 0.0
            checkpoint.save(
                path,
                {
                    "format": 1,
                    "settings": json.dumps(asdict(settings)),
                    "revision": checkpoint.git_revision(),
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "figures": figures,
                },
            )
    return average


def export(run: Path, folder: Path, sources: Sequence[dict[str, Any]], version: str, licence: str) -> Path:
    """Write a run's averaged weights as `head_pose.npz`, and their card beside them.

    Args:
        run: the run's folder.
        folder: where they go.
        sources: what it learned from, for the card.
        version: of these weights.
        licence: of them.

    Returns:
        The path of the weights.
    """
    state = checkpoint.load(run / "last.pt")
    settings = json.loads(state["settings"])
    network = PoseNetwork()
    network.load_state_dict(state["average"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "head_pose.npz"
    with replacing(path, "The weights before are kept") as file:
        np.savez_compressed(file, **network.arrays())
    data = Path(settings.pop("data"))
    card = {
        "name": "head_pose",
        "version": version,
        "created": datetime.now(UTC).date().isoformat(),
        "file": {"file": path.name, "sha256": sha256_of(path), "bytes": path.stat().st_size},
        "training_data": list(sources),
        "licence": licence,
        "figures": state["figures"],
        "recipe": json.dumps(
            {"revision": state["revision"], "made": read_note(data), **settings, "steps": state["step"]}
        ),
    }
    card_path = folder / "head_pose.json"
    card_path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return path
