"""Configuration of a training run, read from TOML."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.modelcard import default_card_path, load_card

from .discriminator import KINDS as DISCRIMINATORS
from .masks import DEFAULT_WEIGHTS, STYLES
from .optimizer import KINDS as OPTIMIZERS

PRECISIONS = ("float32", "bfloat16")


def start_path(start: str) -> Path:
    """The model card that a configuration's `start` names."""
    return default_card_path() if start == "bundled" else Path(start)


@dataclass
class Stage:
    """One stage of a run.

    Attributes:
        size: side of the training crops.
        batch: crops per step.
        steps: length in steps; or
        minutes: length in minutes of training time, for a machine whose speed is not known.
        lr: learning rate at the start of the stage; it falls along a cosine
        lr_end: to this.
        adversarial: weight of the adversarial loss; 0 trains without a discriminator.
        features: weight of feature matching.
        relight: weight of the relit-image difference.
        curl: weight of the difference in curl.
        registered: share of the reconstruction loss that is measured against the truth moved to where the
            answer has put its parts (`losses.registered`): features are sharper, and may lie a little beside.
    """

    size: int
    batch: int
    steps: int = 0
    minutes: float = 0.0
    lr: float = 1e-3
    lr_end: float = 1e-4
    adversarial: float = 0.0
    features: float = 0.0
    relight: float = 0.0
    curl: float = 0.0
    registered: float = 0.0


@dataclass
class Config:
    """A whole run.

    Attributes:
        data: folder of shards, with one folder per split.
        stages: run in order.
        start: a model card whose weights a new run starts from, or "bundled" for the extension's own; empty
            for a random start. Without a `generator` of its own the run takes the card's. A network with more
            blocks than the card's begins as the card's network.
        precision: "bfloat16" runs the generator in mixed precision, weights and losses stay float32; or
            "float32".
        compile: run the generator, and with `on_device` the guess, through `torch.compile`: most of a minute
            at the start, then quicker. For a GPU.
        on_device: keep the camera-space maps on the training device, and move them and guess their holes
            there (`trainer.ondevice`): a GPU learns faster than loaders can do that. All must be of one size.
        echo: with `on_device`, in how many batches, one after the other, a map of another space is: it takes
            a loader twenty times as long.
        noise: share of maps that the network sees with a capture's noise on them; the truth has none.
        scans: share of camera-space maps that look scanned: bumps that no model of heads has, no sharp
            lids (`augment.Scan`); the truth does, too.
        optimizer: "adamw"; or "muon", which learns a little faster for each map seen (`trainer.optimizer`).
        discriminator: "patch", ours, with the hinge loss; or "dcgan", the papers', with binary cross entropy.
        discriminator_every: the discriminator learns at every so many steps of the generator.
        warm_up: steps at the start of a run over which the learning rate rises.
        closing: share of the reconstruction loss that is taken after an approximate seam closing, as the
            path around the network does it; the rest is taken from the bare prediction.
        loaders: processes that make batches ahead of training; 0 makes each when it is asked for. The batches
            are the same ones. On a GPU use as many as there are cores.
        tensorboard: write scalars and sheets for TensorBoard, where it is installed.
        device: "cpu", "cuda", "mps", ...; under torchrun "cuda" is each process's own GPU.
        balance: 0 counts each texel of a hole alike, 1 each hole; between them a compromise.
        known: weight of the loss at known texels, against which a seam is closed.
    """

    data: str
    stages: list[Stage]
    start: str = ""
    precision: str = "float32"
    compile: bool = False
    on_device: bool = False
    echo: int = 1
    noise: float = 0.0
    scans: float = 0.0
    closing: float = 0.0
    balance: float = 0.0
    seed: int = 0
    generator: dict[str, Any] = field(default_factory=lambda: {"kind": "face"})
    optimizer: str = "adamw"
    discriminator: str = "patch"
    discriminator_width: int = 48
    discriminator_every: int = 1
    lr_discriminator: float = 2e-4
    r1: float = 0.1
    r1_every: int = 8
    shares: dict[str, float] = field(default_factory=lambda: {"camera": 0.7, "object": 0.12, "tangent": 0.18})
    masks: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    known_valid: float = 0.5
    zoom: list[float] = field(default_factory=lambda: [0.9, 1.7])
    cosine: float = 1.0
    chord: float = 0.3
    gradient: float = 0.3
    known: float = 0.05
    weight_decay: float = 1e-3
    clip: float = 1.0
    warm_up: int = 100
    ema: float = 0.998
    log_every: int = 20
    save_every: int = 200
    validate_every: int = 400
    refresh_every: int = 100
    loaders: int = 0
    tensorboard: bool = True
    device: str = "cpu"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Build from plain values.

        Raises:
            ValueError: a key is unknown or missing, or a value makes no sense.
        """
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
        if not values.get("data") or not values.get("stages"):
            raise ValueError("a configuration needs `data`, a folder of shards, and at least one [[stages]]")
        stage_keys = {f.name for f in fields(Stage)}
        stages = []
        for number, stage in enumerate(values["stages"], 1):
            odd = set(stage) - stage_keys
            if odd:
                raise ValueError(f"unknown settings in stage {number}: {', '.join(sorted(odd))}")
            built = Stage(**stage)
            if (built.steps > 0) == (built.minutes > 0):
                raise ValueError(f"stage {number} needs either `steps` or `minutes`")
            if built.size < 16 or built.size % 16 or built.batch < 1:
                raise ValueError(f"stage {number}: size must be a multiple of 16 and batch at least 1")
            stages.append(built)
        if values.get("precision", "float32") not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
        if values.get("discriminator", "patch") not in DISCRIMINATORS:
            raise ValueError(f"discriminator must be one of {', '.join(DISCRIMINATORS)}")
        if values.get("optimizer", "adamw") not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}")
        for key in ("discriminator_every", "echo", "r1_every", "log_every", "save_every", "validate_every"):
            if values.get(key, 1) < 1:
                raise ValueError(f"{key} must be at least 1")
        if values.get("start") and "generator" not in values:
            card = load_card(start_path(values["start"]))
            values = {**values, "generator": dict(card.generator)}
        odd = set(values.get("masks", {})) - set(STYLES)
        if odd:
            raise ValueError(f"unknown mask styles: {', '.join(sorted(odd))}; known: {', '.join(STYLES)}")
        return cls(**{**values, "stages": stages})

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a TOML file, or the `config.json` of a run.

        Raises:
            ValueError: it is neither, or not a configuration.
        """
        text = path.read_text(encoding="utf-8")
        try:
            return cls.from_dict(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
        except (tomllib.TOMLDecodeError, TypeError, ValueError, InpaintError) as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and run folders."""
        return asdict(self)
