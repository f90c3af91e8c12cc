"""The training loop: one linear path from configuration to weights."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from tqdm import tqdm

from blender_normal_inpaint.core.modelcard import load_card
from blender_normal_inpaint.nets import build_generator
from blender_normal_inpaint.nets.generator import ResidualBranch

from . import checkpoint, losses, sheets
from .config import Config, Stage, start_path
from .discriminator import (
    accuracy,
    build_discriminator,
    discriminator_loss,
    feature_matching,
    generator_adversarial,
    patch_weight,
    r1_penalty,
    share_right,
)
from .ondevice import DeviceSet, conjugate_step, device_batches
from .optimizer import Optimizer, follow, learning_rate
from .start import starting_weights
from .task import Batch, ShardSet, batches

LAST = "last.pt"


class TrainingFailed(RuntimeError):  # noqa: N818  # it is what happened, and reads so
    """Training cannot go on; the message says why and what to do."""


def generator_loss(
    config: Config,
    batch: Batch,
    predicted: Tensor,
    registered: float = 0.0,
    measured: Callable[..., Any] = losses.measured,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Reconstruction loss of a batch, its parts for the log, and the repaired maps as they are judged.

    These have their seam closed if the configuration asks for it: a seam would be all that a discriminator
    ever learns to see.

    Args:
        config: the weights of the losses.
        batch: what was to be predicted.
        predicted: (n, 3, s, s) unit vectors.
        registered: share that is measured against `losses.registered` instead of the truth.
        measured: `losses.measured`, or what `torch.compile` makes of it.
    """
    inside = batch.hole * batch.valid
    outside = (1 - batch.hole) * batch.valid
    weight = losses.balanced(inside, config.balance)
    total = config.known * losses.cosine(predicted, batch.given, outside)
    parts = {name: total.new_zeros(()) for name in ("cosine", "chord", "gradient")}
    answers = [(predicted, 1 - config.closing)]
    if config.closing > 0:
        answers.append((losses.close_seam(predicted, batch.given, outside), config.closing))
    truths = [(batch.truth, 1 - registered)]
    if registered > 0:
        moved = losses.registered(answers[-1][0], batch.truth, batch.hole, batch.valid)
        truths.append((moved, registered))
    for answer, part in answers:
        composite = batch.composite(answer)
        for truth, share in truths:
            cosine, chord, slope = measured(answer, composite, truth, weight, batch.hole, batch.valid)
            loss = config.cosine * cosine + config.chord * chord + config.gradient * slope
            total = total + part * share * loss
            for name, value in (("cosine", cosine), ("chord", chord), ("gradient", slope)):
                parts[name] = parts[name] + part * share * value.detach()
    with torch.no_grad():
        parts["degrees"] = losses.weighted_mean(losses.angle_degrees(answer, batch.truth), weight)
    return total, parts, composite


def advice_for_cpu(config: Config) -> str:
    """What to set on this processor if it has no arithmetic in bfloat16 and must emulate it; or nothing.

    Muon's steps are computed in bfloat16 as well.
    """
    # A PyTorch without oneDNN cannot tell, and has no such operator.
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not there or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ""
    better = ['precision = "float32"'] if config.precision == "bfloat16" else []
    better += ['optimizer = "adamw"'] if config.optimizer == "muon" else []
    if not better:
        return ""
    return f"this processor emulates bfloat16, many times slower: set {' and '.join(better)}"


class Trainer:
    """A run in a folder that holds what is needed to judge it, to go on, and to repeat it.

    `config.json`; `sessions.jsonl`, a line for each start (code revision, versions, machine), with
    `changes-REVISION.diff` where the code differed from its revision; `data.json`, how the data were made;
    `log.jsonl`; `sheets/`; `tensorboard/`; and `last.pt`.

    Args:
        config: the run.
        folder: where the run lives; a run that is there is continued.
        say: takes lines of progress.
    """

    def __init__(self, config: Config, folder: Path, say: Callable[[str], None] = print):
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.device = torch.device(config.device)
        if self.device.type == "cuda" and self.device.index is None:
            # torchrun starts one process for each GPU of a machine.
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # Every step is of the same shape.
        if self.world > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self.say: Callable[[str], None] = say if self.rank == 0 else lambda text: None
        self.rng = np.random.default_rng([config.seed, self.rank] if self.rank else config.seed)
        self.generator = build_generator(config.generator).to(self.device)
        if self.device.type != "mps":
            self.generator = self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if config.start and not (folder / LAST).exists():
            self._start_from(start_path(config.start))
        self._forward: Callable[[Tensor], Tensor] = self.generator
        self._conjugate_step = conjugate_step
        self._measured = losses.measured
        if config.compile:  # Of the losses the parts at full size: all in one take minutes to assemble.
            self._forward = torch.compile(self.generator, dynamic=False)
            self._measured = torch.compile(losses.measured, dynamic=False)
            self._conjugate_step = torch.compile(conjugate_step)
        self.average = deepcopy(self.generator).requires_grad_(False)
        self.optimizer = Optimizer(self.generator, config.optimizer, config.weight_decay)
        self.discriminator = build_discriminator(config.discriminator, config.discriminator_width).to(
            self.device
        )
        # No momentum: the classic choice where two networks chase each other.
        self.judge_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.lr_discriminator, betas=(0.0, 0.99)
        )
        self._data: ShardSet | None = None
        self._test: ShardSet | None = None
        self.step = 0
        self.stage = 0
        self.stage_step = 0
        self.stage_seconds = 0.0
        if (folder / LAST).exists():
            self._resume(checkpoint.load(folder / LAST))
        if self.world > 1:
            for tensor in self.generator.state_dict().values():
                distributed.broadcast(tensor, 0)
            for tensor in self.discriminator.state_dict().values():
                distributed.broadcast(tensor, 0)
        if self.device.type == "cpu" and (advice := advice_for_cpu(config)):
            self.say(advice)
        self._asked_to_end = False
        self._unchecked: tuple[int, Tensor, Tensor] | None = None
        self._board: Any = None
        if self.rank == 0:
            self._note_session()

    def _note_session(self) -> None:
        """Write down what this start runs with."""
        config, folder = self.config, self.folder
        (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
        revision = checkpoint.git_revision()
        session = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": self.step,
            "revision": revision,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.platform(),
            "device": str(self.device),
            "processes": self.world,
            "threads": torch.get_num_threads(),
        }
        if self.device.type == "cuda":
            session["gpu"] = torch.cuda.get_device_name(self.device)
        with (folder / "sessions.jsonl").open("a") as file:
            file.write(json.dumps(session) + "\n")
        if revision.endswith("+"):
            (folder / f"changes-{revision[:12]}.diff").write_text(checkpoint.git_changes())
        with contextlib.suppress(OSError):
            (folder / "data.json").write_bytes((Path(config.data) / "made.json").read_bytes())
        if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
            self.say(
                "TensorBoard is not installed (python -m pip install tensorboard): log.jsonl and sheets/ tell"
            )
        elif config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=self.step)

    def _resume(self, state: dict[str, Any]) -> None:
        before = json.loads(state["config"])
        defaults = {
            "generator": {},
            "discriminator": "patch",
            "discriminator_width": 48,
            "optimizer": "adamw",
        }
        for key, default in defaults.items():
            now = self.config.to_dict()[key]
            if json.loads(json.dumps(now)) != before.get(key, default):
                raise ValueError(
                    f"{self.folder / LAST} was trained with {key} = {before.get(key, default)}, the "
                    f"configuration says {now}: give the run another folder, or its own configuration back"
                )
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if "discriminator" in state:
            self.discriminator.load_state_dict(state["discriminator"])
            self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        if self.rank == 0:
            self.rng.bit_generator.state = json.loads(state["rng"])
        else:
            self.rng = np.random.default_rng([self.config.seed, self.rank, int(state["step"])])
        torch.set_rng_state(state["torch_rng"])
        self.step, self.stage = state["step"], state["stage"]
        self.stage_step, self.stage_seconds = state["stage_step"], state["stage_seconds"]
        self.say(f"continuing at step {self.step}, stage {self.stage + 1}")

    def _start_from(self, card_path: Path) -> None:
        """Take over a card's weights; blocks it lacks begin as the identity.

        Raises:
            ValueError: the weights are of another network.
        """
        card = load_card(card_path)
        given = starting_weights(card, self.generator.state_dict())
        self.generator.load_state_dict(given, strict=False)
        for name, module in self.generator.named_modules():
            if isinstance(module, ResidualBranch) and f"{name}.{module.last_layer}.weight" not in given:
                module.close()
        self.say(f"starting from {card.name} {card.version}")

    def save(self) -> None:
        """Write the whole state of the run; of several processes the first one does.

        Raises:
            TrainingFailed: the last loss was no number; nothing is written.
        """
        self._check()
        if self.rank:
            return
        checkpoint.save(
            self.folder / LAST,
            {
                "format": 1,
                "config": json.dumps(self.config.to_dict()),
                "revision": checkpoint.git_revision(),
                "generator": self.generator.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "discriminator": self.discriminator.state_dict(),
                "judge_optimizer": self.judge_optimizer.state_dict(),
                "rng": json.dumps(self.rng.bit_generator.state),
                "torch_rng": torch.get_rng_state(),
                "step": self.step,
                "stage": self.stage,
                "stage_step": self.stage_step,
                "stage_seconds": self.stage_seconds,
            },
        )

    def log(self, values: dict[str, Any]) -> None:
        """Append a line to the log.

        Raises:
            TrainingFailed: the last loss was no number; nothing is written.
        """
        self._check()
        if self.rank:
            return
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")
        if self._board is not None:
            for key, value in values.items():
                if key not in ("step", "size"):
                    self._board.add_scalar(key, value, values["step"])

    def run(self) -> None:
        """Train until the last stage is done.

        A single process that is asked to end (Ctrl-C, or the SIGTERM of a scheduler) ends its step and
        saves; a second Ctrl-C ends it at once.

        Raises:
            TrainingFailed: the loss is no number any more, or memory ran out.
            FileNotFoundError: there is no data.
            KeyboardInterrupt: it was asked to end; the run is saved.
        """
        with self._ending_gently():
            self._run_stages()

    @contextlib.contextmanager
    def _ending_gently(self) -> Iterator[None]:
        # Of several processes one alone would wait for the others' gradients for ever.
        if self.world > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(number: int, frame: object) -> None:
            self._asked_to_end = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run_stages(self) -> None:
        while self.stage < len(self.config.stages):
            try:
                self._run_stage(self.config.stages[self.stage])
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                # On a CPU PyTorch has no class of its own for this.
                if isinstance(error, RuntimeError) and not (
                    isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
                ):
                    raise
                stage = self.config.stages[self.stage]
                raise TrainingFailed(
                    f"out of memory at step {self.step}, {stage.size} px with batches of {stage.batch}; "
                    f"use a smaller batch and run the same command again: it goes on from {LAST}"
                ) from error
            self.stage += 1
            self.stage_step, self.stage_seconds = 0, 0.0
            self.save()
        if self._board is not None:
            self._board.flush()
        self.say("done")

    def _progress(self, stage: Stage) -> float:
        if stage.steps:
            return self.stage_step / stage.steps
        if self.world > 1:  # All must agree on when a stage ends: the first one's clock counts.
            clock = torch.tensor(self.stage_seconds, dtype=torch.float64, device=self.device)
            distributed.broadcast(clock, 0)
            self.stage_seconds = float(clock)
        return self.stage_seconds / 60 / stage.minutes

    def _share_gradients(self, network: nn.Module) -> None:
        """Average a network's gradients over all processes, in one message."""
        if self.world == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        distributed.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _run_stage(self, stage: Stage) -> None:
        config = self.config
        data = self._data_of(stage)
        drawn = self._batches(data, stage)
        self.say(f"stage {self.stage + 1} of {len(config.stages)}: {stage.size} px, maps {data.counts()}")
        seen: list[dict[str, Tensor]] = []
        bar = tqdm(
            total=100.0,
            unit="%",
            desc=f"stage {self.stage + 1}",
            bar_format="{desc} {percentage:5.1f}% |{bar}| {elapsed} < {remaining}{postfix}",
            disable=None if self.rank == 0 else True,  # None: shown on a terminal only
        )
        waited, since = 0.0, self.stage_seconds
        while (progress := self._progress(stage)) < 1:
            bar.update(100 * progress - bar.n)
            start = time.perf_counter()
            rate = learning_rate(stage.lr, stage.lr_end, self.step, progress, config.warm_up)
            batch = next(drawn).to(self.device)
            waited += time.perf_counter() - start
            seen.append(self._train_step(batch, rate, stage))
            self.step += 1
            self.stage_step += 1
            self.stage_seconds += time.perf_counter() - start
            if self.step % config.log_every == 0:
                keys = dict.fromkeys(key for parts in seen for key in parts)
                mean = {key: float(torch.stack([p[key] for p in seen if key in p]).mean()) for key in keys}
                per_second = self.world * stage.batch / (self.stage_seconds / self.stage_step)
                values = {"step": self.step, "size": stage.size, "lr": rate, "per_second": per_second}
                # What part of the time training waited for its data; near 0 with enough `loaders`.
                waiting = waited / max(self.stage_seconds - since, 1e-9)
                self.log({**values, "waiting": waiting, **mean})
                since, waited = self.stage_seconds, 0.0
                text = ", ".join(f"{key} {value:.4f}" for key, value in mean.items())
                self.say(f"{self.step} [{progress:.1%}] {text}, {per_second:.1f}/s")
                bar.set_postfix_str(f"{mean['degrees']:.2f} deg, {per_second:.0f} maps/s")
                seen = []
            if self.step % config.refresh_every == 0 and data.refresh():
                self.say(f"maps {data.counts()}")
                drawn = self._batches(data, stage)
            if self.step % config.save_every == 0:
                self.save()
            if self.step % config.validate_every == 0 and self.rank == 0:
                self.validate(stage)
            if self._asked_to_end:
                bar.close()
                self.save()
                self.say(f"saved at step {self.step}; the same command goes on")
                raise KeyboardInterrupt
        bar.update(bar.total - bar.n)
        bar.close()

    def _data_of(self, stage: Stage) -> ShardSet:
        if self._data is None or not self._data.serve(stage.size):
            self._data = None  # Before others take its place in memory.
            folder, shares = Path(self.config.data) / "train", self.config.shares
            if self.config.on_device:
                self._data = DeviceSet(folder, stage.size, shares, self.device)
            else:
                self._data = ShardSet(folder, stage.size, shares)
        else:
            self._data.refresh()
        return self._data

    def _batches(self, data: ShardSet, stage: Stage) -> Iterator[Batch]:
        config = self.config
        args = (self.step, (config.seed, self.rank), stage.batch, config.masks)
        zoom = (config.zoom[0], config.zoom[1])
        if isinstance(data, DeviceSet):
            return device_batches(
                data, *args, known_valid=config.known_valid, zoom=zoom, noise=config.noise,
                scans=config.scans, echo=config.echo,
                loaders=config.loaders, step=self._conjugate_step,
            )  # fmt: skip
        return batches(
            data,
            *args,
            known_valid=config.known_valid,
            zoom=zoom,
            noise=config.noise,
            scans=config.scans,
            loaders=config.loaders,
        )

    def _predict(self, inputs: Tensor) -> Tensor:
        with self._precision():
            predicted: Tensor = self._forward(inputs.to(memory_format=torch.channels_last))
        return predicted.float()

    def _precision(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16"
        )

    def _judge_step(self, batch: Batch, composite: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator; the generator is left alone."""
        config = self.config
        self.discriminator.requires_grad_(True)
        truth = batch.truth * batch.valid
        real, _ = self.discriminator(truth, batch.hole, batch.valid)
        fake, _ = self.discriminator(composite.detach(), batch.hole, batch.valid)
        weight = patch_weight(batch.hole, batch.valid, real)
        loss = discriminator_loss(real, fake, weight, config.discriminator)
        if config.r1 > 0 and self.step % config.r1_every == 0:
            # Applied rarely ("lazily"), so scaled up by how rarely.
            penalty = r1_penalty(self.discriminator, truth, batch.hole, batch.valid)
            loss = loss + config.r1 / 2 * config.r1_every * penalty
        self.judge_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._share_gradients(self.discriminator)
        self.judge_optimizer.step()
        return {"judge": loss.detach(), "judge_right": share_right(real, fake, weight)}

    def _adversarial_loss(
        self, batch: Batch, composite: Tensor, stage: Stage
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the discriminator and the finer measures add to the generator's loss."""
        parts: dict[str, Tensor] = {}
        total = composite.new_zeros(())
        if stage.adversarial > 0 or stage.features > 0:
            self.discriminator.requires_grad_(False)
            fake, features = self.discriminator(composite, batch.hole, batch.valid)
            with torch.no_grad():
                _, wanted = self.discriminator(batch.truth * batch.valid, batch.hole, batch.valid)
            fooled = generator_adversarial(
                fake, patch_weight(batch.hole, batch.valid, fake), self.config.discriminator
            )
            matched = feature_matching(features, wanted)
            total = total + stage.adversarial * fooled + stage.features * matched
            parts |= {"adversarial": fooled.detach(), "features": matched.detach()}
        inside = batch.hole * batch.valid
        if stage.relight > 0:
            drawn = self.rng.normal(size=(len(composite), 3, 3)).astype(np.float32)
            drawn[..., 2] = np.abs(drawn[..., 2]) + 0.2
            lights = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True))
            lit = losses.relight(composite, batch.truth, inside, lights.to(composite.device))
            total = total + stage.relight * lit
            parts["relight"] = lit.detach()
        if stage.curl > 0:
            curl = losses.curl_difference(composite, batch.truth, inside)
            total = total + stage.curl * curl
            parts["curl"] = curl.detach()
        return total, parts

    def _train_step(self, batch: Batch, rate: float, stage: Stage) -> dict[str, Tensor]:
        config = self.config
        predicted = self._predict(batch.inputs)
        loss, parts, composite = generator_loss(config, batch, predicted, stage.registered, self._measured)
        if stage.adversarial > 0 and self.step % config.discriminator_every == 0:
            parts |= self._judge_step(batch, composite)
        if max(stage.adversarial, stage.features, stage.relight, stage.curl) > 0:
            extra, more = self._adversarial_loss(batch, composite, stage)
            loss = loss + extra
            parts |= more
        self.generator.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._share_gradients(self.generator)
        norm = nn.utils.clip_grad_norm_(self.generator.parameters(), config.clip)
        self._unchecked = self.step, loss.detach(), norm
        if self.device.type == "cpu":
            self._check()
        self.optimizer.step(rate)
        follow(self.average, self.generator, self.step, config.ema)
        return parts

    def _check(self) -> None:
        """Stop if the last step's loss or gradient is no number.

        To ask makes the program wait for a GPU, so it is asked before anything is logged or saved; what
        once is no number stays none.

        Raises:
            TrainingFailed: it is none.
        """
        if self._unchecked is None:
            return
        (step, *values), self._unchecked = self._unchecked, None
        for name, value in zip(("loss", "gradient"), values, strict=True):
            if not torch.isfinite(value):
                raise TrainingFailed(
                    f"the {name} became {float(value)} at step {step}; "
                    f"continue from {LAST} with a lower learning rate"
                )

    @torch.no_grad()
    def validate(self, stage: Stage) -> float:
        """Measure the averaged weights on the test split (or train, if there is none); write a sheet."""
        folder = Path(self.config.data) / "test"
        if not any(folder.glob("*.npz")):
            folder = folder.with_name("train")
        if self._test is None or self._test.size != stage.size:
            self._test = ShardSet(folder, stage.size, self.config.shares)
        batch = self._test.batch(
            np.random.default_rng(12345),
            24,
            self.config.masks,
            known_valid=self.config.known_valid,
            noise=self.config.noise,
            scans=self.config.scans,
        ).to(self.device)
        self.average.eval()
        predicted = self.average(batch.inputs)
        known = (1 - batch.hole) * batch.valid
        inside = batch.hole * batch.valid

        def degrees_of(answer: Tensor) -> float:
            return float(losses.weighted_mean(losses.angle_degrees(answer, batch.truth), inside))

        degrees = degrees_of(predicted)
        closed = degrees_of(losses.close_seam(predicted, batch.given, known))
        self.say(f"{self.step} test {degrees:.2f} degrees, {closed:.2f} with the seam closed")
        values = {"step": self.step, "size": stage.size, "test_degrees": degrees}
        values["test_closed_degrees"] = closed
        if stage.adversarial > 0:
            # Far below what it reaches in training: the discriminator has memorised its maps.
            values["test_judge_right"] = accuracy(
                self.discriminator, batch.truth, batch.composite(predicted), batch.hole, batch.valid
            )
        self.log(values)
        rows = [
            sheets.row(
                *(
                    batch.truth[i].permute(1, 2, 0).cpu().numpy(),
                    batch.hole[i, 0].cpu().numpy() > 0,
                    batch.valid[i, 0].cpu().numpy() > 0,
                    predicted[i].permute(1, 2, 0).cpu().numpy(),
                )
            )
            for i in range(0, 24, 3)
        ]
        sheets.write(self.folder / "sheets" / f"{self.step:07d}.png", rows)
        if self._board is not None:
            self._board.add_image("sheet", sheets.sheet(rows), self.step, dataformats="HWC")
        return degrees
