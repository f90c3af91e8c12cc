"""The papers' comparison: {bow-tie, U-Net, ours} x mask styles x {with, without mask channel}, equal steps.

Every network is trained by the same loop from the same seed on the same batches with the papers' losses: the
cosine inside the hole and the binary cross entropy of the DCGAN discriminator, which is retrained at
intervals. Each is a run of its own, so that a study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import checkpoint, sheets
from .baselines import available
from .config import Config
from .discriminator import accuracy
from .loop import LAST, Trainer
from .metrics import mean_of, measure
from .task import Batch, ShardSet

F32 = NDArray[np.float32]

NETWORKS = {"bow-tie": "bowtie", "U-Net": "paper_unet", "ours": "face"}
#: The styles of both papers, in their order.
PAPER_STYLES = ("lines", "scatter", "blob", "stripe", "crescent")
#: What the table shows: a heading, the measure, and digits.
TABLE = (
    ("mean °", "mean", 2),
    ("median °", "median", 2),
    ("p95 °", "p95", 1),
    ("< 11.25°", "under_11", 2),
    ("< 22.5°", "under_22", 2),
    ("< 30°", "under_30", 2),
    ("PSNR", "psnr", 1),
    ("SSIM", "ssim", 3),
    ("relit PSNR", "relit_psnr", 1),
    ("relit SSIM", "relit_ssim", 3),
    ("detail", "detail", 2),
    ("curl", "curl_ratio", 2),
    ("seam", "seam", 2),
    ("D train", "judge_train", 2),
    ("D test", "judge_test", 2),
)
PICTURED = 3


@dataclass
class Settings:
    """What decides a study's outcome.

    Attributes:
        data: folder of shards, with `train` and `test`.
        size: side of the crops; a multiple of 32, which five halvings need.
        steps: of each network.
        batch: crops per step.
        styles: of masks, each with networks of its own.
        networks: of `NETWORKS`.
        width: channels of the papers' networks and discriminator after their first layer; 64 in DCGAN.
        generator: arguments of ours.
        cosine: weight of the cosine loss against an adversarial loss of weight 1: 10, 100 or 999 in the
            papers' code.
        discriminator_every: the discriminator learns at every so many steps.
        lr: learning rate; it falls along a cosine to a tenth.
        lr_discriminator: of the discriminator.
        cases: held-out maps per style.
        space: of the maps.
        seed: of weights, batches and masks.
        device: where to train.
    """

    data: str
    size: int = 64
    steps: int = 2000
    batch: int = 16
    styles: Sequence[str] = PAPER_STYLES
    networks: Sequence[str] = tuple(NETWORKS)
    width: int = 64
    generator: dict[str, Any] = field(default_factory=dict)
    cosine: float = 100.0
    discriminator_every: int = 2
    lr: float = 1e-3
    lr_discriminator: float = 1e-4
    cases: int = 48
    space: str = "camera"
    seed: int = 1
    device: str = "cpu"

    def config(self, network: str, style: str, mask_channel: bool) -> Config:
        """The run of one network."""
        generator: dict[str, Any] = {"kind": NETWORKS[network], "mask_channel": mask_channel}
        generator |= self.generator if network == "ours" else {"width": self.width}
        stage = {
            "size": self.size,
            "batch": self.batch,
            "steps": self.steps,
            "lr": self.lr,
            "lr_end": self.lr / 10,
            "adversarial": 1.0,
        }
        return Config.from_dict(
            {
                "data": self.data,
                "stages": [stage],
                "seed": self.seed,
                "generator": generator,
                "discriminator": "dcgan",
                "discriminator_width": self.width,
                "discriminator_every": self.discriminator_every,
                "lr_discriminator": self.lr_discriminator,
                "r1": 0.0,
                "shares": {self.space: 1.0},
                "masks": {style: 1.0},
                "cosine": self.cosine,
                "chord": 0.0,
                "gradient": 0.0,
                "known": self.cosine / 10,
                "ema": 0.99,
                "warm_up": max(1, self.steps // 20),
                "log_every": 10,
                "save_every": max(50, self.steps // 4),
                "validate_every": 10**9,
                "tensorboard": False,
                "device": self.device,
            }
        )


def _maps(values: Tensor) -> F32:
    """(n, c, h, w) tensor to (n, h, w, c) array."""
    return np.ascontiguousarray(values.permute(0, 2, 3, 1).cpu().numpy())


@dataclass
class Cases:
    """Held-out maps with masks of one style, and training maps for the discriminator's accuracy."""

    test: Batch
    train: Batch

    @classmethod
    def draw(cls, settings: Settings, style: str) -> Cases:
        """Draw the same maps and masks for every network."""
        batches = []
        for number, split in enumerate(("test", "train")):
            shards = ShardSet(Path(settings.data) / split, settings.size, {settings.space: 1.0})
            rng = np.random.default_rng([settings.seed, 991, number])
            batches.append(shards.batch(rng, settings.cases, {style: 1.0}, zoom=(0.95, 1.1)))
        return cls(*batches)

    def arrays(self) -> list[tuple[F32, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Truth (h, w, 3), hole and surface (h, w) of each held-out map that a mask hides some of."""
        truth, hole, valid = _maps(self.test.truth), self.test.hole[:, 0] > 0, self.test.valid[:, 0] > 0
        return [(truth[i], hole[i].numpy(), valid[i].numpy()) for i in self.used()]

    def used(self) -> list[int]:
        """Numbers of the held-out maps that a mask hides some of."""
        hidden = (self.test.hole * self.test.valid).sum(dim=(1, 2, 3))
        return [int(i) for i in torch.nonzero(hidden > 4)[:, 0]]


def _train_one(
    settings: Settings, name: tuple[str, str, bool], folder: Path, cases: Cases, say: Callable[[str], None]
) -> None:
    """Train and measure one network; what it reached is in `result.json` and `pictured.npy`."""
    network, style, mask_channel = name
    trainer = Trainer(settings.config(network, style, mask_channel), folder, say)
    trainer.run()
    average = trainer.average.cpu().eval()
    judge = trainer.discriminator.cpu()
    with torch.no_grad():
        filled = _maps(average(cases.test.inputs))
    measures = []
    for i, (truth, hole, valid) in zip(cases.used(), cases.arrays(), strict=True):
        repaired = np.where((hole & valid)[..., None], filled[i], truth)
        measures.append(measure(repaired, truth, hole, valid))
    result = mean_of(measures)
    for split, batch in (("train", cases.train), ("test", cases.test)):
        with torch.no_grad():
            composite = batch.composite(average(batch.inputs))
        result[f"judge_{split}"] = accuracy(judge, batch.truth, composite, batch.hole, batch.valid)
    result["parameters"] = sum(p.numel() for p in average.parameters())
    np.save(folder / "pictured.npy", filled[cases.used()[:PICTURED]])
    part = folder / "result.part"
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(folder / "result.json")
    # Thirty checkpoints of the papers' widths are gigabytes; the configuration repeats the run.
    (folder / LAST).unlink()


def _picture(cases: Cases, columns: Mapping[str, Sequence[F32]], path: Path) -> None:
    """One row of normals and one relit row per pictured map; a column per network."""
    rows = []
    for k, (truth, hole, valid) in enumerate(cases.arrays()[:PICTURED]):
        inside = (hole & valid)[..., None]
        results = [np.where(inside, filled[k], truth).astype(np.float32) for filled in columns.values()]
        lit = sheets.relight(truth, valid)
        rows.append(
            np.concatenate(
                [sheets.damaged(truth, hole, valid)]
                + [sheets.show(n, valid) for n in results]
                + [sheets.show(truth, valid)],
                axis=1,
            )
        )
        rows.append(
            np.concatenate(
                [np.where(inside, np.float32(1), lit)] + [sheets.relight(n, valid) for n in results] + [lit],
                axis=1,
            )
        )
    sheets.write(path, rows, ["damaged", *columns, "truth"])


def markdown(rows: Sequence[tuple[str, str, str, Mapping[str, float]]]) -> str:
    """The table: mask style, method, mask channel, and its measures."""
    heads = ["mask", "method", "mask channel", *(head for head, _, _ in TABLE)]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- | --- |" + " ---: |" * len(TABLE)]
    for style, method, channel, values in rows:
        cells = [
            f"{values[key]:.{digits}f}" if np.isfinite(values.get(key, np.nan)) else ""
            for _, key, digits in TABLE
        ]
        lines.append("| " + " | ".join([style, method, channel, *cells]) + " |")
    return "\n".join(lines) + "\n"


def study(settings: Settings, out: Path, say: Callable[[str], None] = print) -> Path:
    """Run a study, or go on with one.

    Args:
        settings: what to compare.
        out: folder of the runs, the table (`study.md`, `study.json`) and one picture per mask style.
        say: takes lines of progress.

    Returns:
        The table's path.

    Raises:
        ValueError: the folder holds a study with other settings, or the settings make no sense.
        FileNotFoundError: there is no data.
    """
    unknown = set(settings.networks) - set(NETWORKS)
    if unknown:
        raise ValueError(f"unknown networks: {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    if settings.size % 32:
        raise ValueError("the papers' networks halve a crop five times: size must be a multiple of 32")
    wanted = json.loads(json.dumps(asdict(settings)))
    out.mkdir(parents=True, exist_ok=True)
    note = out / "settings.json"
    if note.exists():
        before = json.loads(note.read_text())
        other = sorted(key for key in wanted if before.get(key) != wanted[key])
        if other:
            raise ValueError(
                f"{out} holds a study with other settings ({', '.join(other)}); use another folder"
            )
    note.write_text(json.dumps(wanted, indent=1) + "\n")
    names = [(n, s, c) for s in settings.styles for n in settings.networks for c in (False, True)]
    rows: list[tuple[str, str, str, Mapping[str, float]]] = []
    done = 0
    classic = available(say)
    for style in settings.styles:
        cases = Cases.draw(settings, style)
        columns: dict[str, Sequence[F32]] = {}
        for name in (name for name in names if name[1] == style):
            network, _, channel = name
            folder = out / "runs" / f"{style}_{NETWORKS[network]}_{'with' if channel else 'without'}"
            if not (folder / "result.json").exists():
                _train_one(settings, name, folder, cases, lambda text: None)
            result = json.loads((folder / "result.json").read_text())
            done += 1
            told = "with" if channel else "without"
            reached = f"{result['mean']:.2f} degrees"
            say(f"{done} of {len(names)}: {style}, {network} {told} mask channel: {reached}")
            rows.append((style, network, "yes" if channel else "no", result))
            columns[f"{network} {'+' if channel else '-'}mask"] = np.load(folder / "pictured.npy")
        for method, fill in classic.items():
            filled = [fill(truth, hole, valid) for truth, hole, valid in cases.arrays()]
            measures = [measure(f, *case) for f, case in zip(filled, cases.arrays(), strict=True)]
            rows.append((style, method, "", mean_of(measures)))
            if method == "biharmonic":
                columns[method] = filled[:PICTURED]
        _picture(cases, columns, out / f"{style}.png")
    (out / "study.json").write_text(
        json.dumps({"settings": wanted, "revision": checkpoint.git_revision(), "rows": rows}, indent=1) + "\n"
    )
    path = out / "study.md"
    path.write_text(markdown(rows), encoding="utf-8")
    return path
