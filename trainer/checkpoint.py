"""Checkpoints that a crash cannot tear, and that carry all that is needed to go on or to repeat."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch


def git_revision() -> str:
    """The commit of the code that runs, with `+` when files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "."], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+" if changed else "")


def git_changes() -> str:
    """What of the checkout's tracked files differs from its commit, as a patch; empty outside a checkout."""
    try:
        return subprocess.run(
            ["git", "diff", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target, flush to disk, and rename.

    Raises:
        OSError: it could not be written, for lack of space say; the checkpoint that was there still is.
    """
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # PyTorch's writer hides the cause in a RuntimeError
        free = shutil.disk_usage(path.parent).free
        part.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({free / 2**20:.0f} MiB are free there): {error}. What was there "
            "before is untouched: make space and run the same command again"
        ) from error
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is accepted.

    Raises:
        ValueError: the file is not a checkpoint of this trainer.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ValueError(f"{path} is not a readable checkpoint: {error}") from error
    if not isinstance(state, dict) or state.get("format") != 1:
        raise ValueError(f"{path} is not a checkpoint of this trainer")
    return state
