"""Shards: files of many normal maps, written once and read by training.

A shard is an uncompressed npz: `normals` uint8 (n, s, s, 3), round(127 n) + 128, all zero where there is no
surface; `identity` int64 (n,), equal for views of one person; `space`, one of tangent, object, camera; and
for heads in camera space `across` float32 (n, 3), the unit direction from each one's one side to its other.
Eight bits cost at most 0.23 degrees, far below what inpainting is measured in, and keep a set in memory.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import replacing

SPACES = ("tangent", "object", "camera")


def encode(normals: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack unit normals (..., 3) in [-1, 1] and their surface map (...) into bytes."""
    packed = np.rint(np.clip(normals, -1, 1) * 127).astype(np.int16) + 128
    return np.where(valid[..., None], packed, 0).astype(np.uint8)


def decode(packed: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Unpack bytes (..., 3) into unit normals (..., 3), zero off the surface, and the surface map (...)."""
    valid = np.asarray(packed.any(axis=-1))
    normals: NDArray[np.float32] = (packed.astype(np.float32) - 128) / np.float32(127)
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-6).astype(np.float32)
    normals[~valid] = 0
    return normals, valid


@dataclass(frozen=True)
class Shard:
    """The content of one shard file; see the module's text for the arrays."""

    normals: NDArray[np.uint8]
    identity: NDArray[np.int64]
    space: str
    across: NDArray[np.float32] | None = None

    def save(self, path: Path) -> None:
        """Write beside the target and rename, so that a reader never sees half a shard.

        Raises:
            OSError: it could not be written, for lack of space say.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "The shards before it are kept") as file:
            arrays: dict[str, Any] = {} if self.across is None else {"across": self.across}
            np.savez(file, normals=self.normals, identity=self.identity, space=np.array(self.space), **arrays)

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Read a shard.

        Raises:
            ValueError: the file is no shard, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                across = data["across"] if "across" in data.files else None
                shard = cls(data["normals"], data["identity"], str(data["space"]), across)
        except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a readable shard ({error}); delete it and prepare again"
            ) from error
        good = shard.normals.ndim == 4 and shard.normals.shape[-1] == 3 and shard.normals.dtype == np.uint8
        good = good and (shard.across is None or shard.across.shape == (len(shard.normals), 3))
        if not good or shard.space not in SPACES or len(shard.identity) != len(shard.normals):
            raise ValueError(f"{path} is not a shard of normal maps; delete it and prepare again")
        return shard


def read_note(folder: Path) -> dict[str, Any]:
    """How a folder of shards was made; empty for a new one.

    Raises:
        ValueError: the note is damaged.
    """
    path = folder / "made.json"
    if not path.exists():
        return {}
    try:
        note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, or use another folder") from error
    return note


def write_note(folder: Path, note: dict[str, object]) -> None:
    """Record how a folder of shards was made."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "made.json.part"
    part.write_text(json.dumps(note, indent=1) + "\n")
    part.replace(folder / "made.json")
