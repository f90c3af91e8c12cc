"""Checkpoints that a crash cannot tear, and that carry all that is needed to go on or to repeat."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch

from .files import replacing

#: What decides how a run goes, seen from the checkout's root.
CODE = ("trainer", "blender_normal_inpaint/core", "blender_normal_inpaint/nets")


def _git(*arguments: str, fine: tuple[int, ...] = (0,)) -> str:
    root = Path(__file__).parent.parent
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, encoding="utf-8")
    if done.returncode not in fine:
        raise OSError(done.stderr)
    return done.stdout


def git_revision() -> str:
    """The commit of the code that runs, with `+` when files differ from it; "unknown" outside a checkout."""
    try:
        revision = _git("rev-parse", "HEAD").strip()
        return revision + ("+" if _git("status", "--porcelain", "--", *CODE).strip() else "")
    except OSError:
        return "unknown"


def git_changes() -> str:
    """How the code that runs differs from its commit, new files too, as a patch; empty outside a checkout."""
    try:
        patch = _git("diff", "HEAD", "--", *CODE)
        for name in _git("ls-files", "--others", "--exclude-standard", "--", *CODE).splitlines():
            patch += _git("diff", "--no-index", "--", "/dev/null", name, fine=(0, 1))
        return patch
    except OSError:
        return ""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target, flush to disk, and rename.

    Raises:
        OSError: it could not be written, for lack of space say; the checkpoint that was there still is.
    """
    with replacing(path, "What was there before is untouched") as file:
        torch.save(state, file)


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
