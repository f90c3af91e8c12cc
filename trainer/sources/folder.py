"""A folder of files, one subject in each or in each folder; and of normal maps: a studio's own scans."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.files import read_map, read_mask
from blender_normal_inpaint.core.normals import Encoding, decode

from .raster import F32, Bool

SUFFIXES = (".png", ".tif", ".tiff", ".exr", ".tga", ".jpg", ".jpeg")
VALID_SUFFIX = "_valid"


@dataclass(frozen=True)
class Entry:
    """One file of a folder: its path, its subject, and its valid mask if there is one."""

    path: Path
    subject: str
    valid: Path | None


def subject_of(path: Path, root: Path) -> str:
    """The person a map shows: its first folder below the root, else the name up to the first _, - or dot.

    Several maps of one person must never lie in two splits: what is learned there would be recognised here.
    """
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else re.split(r"[_\-.]", path.stem)[0]


def find_entries(root: Path, suffixes: Sequence[str], what: str) -> list[Entry]:
    """List a folder's files of some kind.

    Args:
        root: the folder.
        suffixes: of the files.
        what: they are, for messages.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it holds no such files.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in suffixes)
    masks = {p.with_suffix("").as_posix(): p for p in files if p.stem.endswith(VALID_SUFFIX)}
    entries = [
        Entry(p, subject_of(p, root), masks.get(p.with_suffix("").as_posix() + VALID_SUFFIX))
        for p in files
        if not p.stem.endswith(VALID_SUFFIX)
    ]
    if not entries:
        raise ValueError(f"{root} holds no {what} ({', '.join(suffixes)})")
    return entries


def find_maps(root: Path) -> list[Entry]:
    """List a folder's normal maps, of two subjects at least, see `find_entries` and `check_subjects`."""
    entries = find_entries(root, SUFFIXES, "normal maps")
    check_subjects(root, entries)
    return entries


def check_subjects(root: Path, entries: Iterable[Entry]) -> None:
    """See that a folder can be split by subject.

    Raises:
        ValueError: all its files are of one subject.
    """
    if len({entry.subject for entry in entries}) < 2:
        raise ValueError(
            f"{root} holds files of one subject only; a split by subject needs two: give each its own folder"
        )


def split_subjects(
    subjects: Iterable[str], known: Mapping[str, str] | None = None, share: float = 0.15
) -> set[str]:
    """Choose the subjects held out for testing, by a hash of their names.

    Args:
        subjects: all of them.
        known: split of those that have one already; they keep it, or what training has seen would be tested.
        share: how many of all.

    Returns:
        At least one subject, unless all are known, and never all.
    """
    known = known or {}
    held_out = {subject for subject, split in known.items() if split == "test"}
    fresh = sorted(set(subjects) - set(known), key=lambda s: hashlib.sha256(s.encode()).digest())
    total = len(fresh) + len(known)
    count = min(total - 1, max(1, round(share * total))) - len(held_out)
    return held_out | set(fresh[: max(0, count)])


def read_entry(entry: Entry, encoding: Encoding) -> tuple[F32, Bool]:
    """Read one map.

    Returns:
        (h, w, 3) unit normals, zero off the surface, and the (h, w) surface: the valid mask, or else every
        texel that has a direction.

    Raises:
        ValueError: it cannot be read, or its valid mask has another size, or it is in another space.
    """
    try:
        pixels = read_map(entry.path).pixels
        normals = decode(pixels, encoding)
        shape = pixels.shape[:2]
        raw = pixels[..., :3].astype(np.float64)
        valid = np.any(raw != 0, axis=-1)
        if entry.valid is not None:
            mask = read_mask(entry.valid)
            if mask.shape != shape:
                raise ValueError(f"{entry.valid} is not of the size of {entry.path.name}")
            valid &= mask
    except InpaintError as error:
        raise ValueError(f"{entry.path}: {error}") from error
    valid &= np.isfinite(normals).all(axis=-1)
    if not valid.any():
        raise ValueError(f"{entry.path} holds no surface")
    doubt = _wrong_space(normals, valid, encoding.space)
    if doubt:
        raise ValueError(f"{entry.path} {doubt}: is it really in {encoding.space} space?")
    return np.where(valid[..., None], normals, 0).astype(np.float32), valid


def _wrong_space(normals: F32, valid: Bool, space: str) -> str:
    """What speaks against a map (h, w, 3) being in a space; empty for nothing."""
    import cv2

    if space == "object":
        return ""
    z = normals[..., 2][valid]
    if np.median(z) < 0:
        return "mostly points inwards"
    # What is seen at all faces the viewer, or nearly so in a wide lens; a tangent-space map never overhangs.
    away = float((z < (-0.3 if space == "camera" else -0.05)).mean())
    if away > 0.02:
        return f"points away from the viewer in {away:.0%} of its texels"
    if space == "tangent":
        # Over a large area tangent-space normals go up and down about +z; a head's forms do not.
        weighted = np.concatenate([normals * valid[..., None], valid[..., None]], axis=-1).astype(np.float32)
        blocks = cv2.resize(weighted, (8, 8), interpolation=cv2.INTER_AREA)
        blocks = blocks[blocks[..., 3] > 0.2]
        tilt = np.degrees(np.arctan2(np.hypot(blocks[:, 0], blocks[:, 1]), blocks[:, 2]))
        if len(tilt) and np.median(tilt) > 25:
            return f"leans by {np.median(tilt):.0f} degrees over large areas"
    return ""


def crops(
    normals: F32, valid: Bool, size: int, rng: np.random.Generator, count: int
) -> Iterator[tuple[F32, Bool]]:
    """Draw square crops of a map, from the whole to a few times its detail, at a size for shards.

    Args:
        normals: (h, w, 3).
        valid: (h, w).
        size: side of the crops.
        rng: decides.
        count: how many.

    Yields:
        (size, size, 3) unit normals and the (size, size) surface; every crop shows some.
    """
    import cv2

    h, w = valid.shape
    weighted = np.concatenate([normals * valid[..., None], valid[..., None]], axis=-1).astype(np.float32)
    rows, columns = np.nonzero(valid)
    for _ in range(count):
        side = float(np.exp(rng.uniform(np.log(min(size, max(h, w))), np.log(max(h, w)))))
        pick = int(rng.integers(len(rows)))
        top = np.clip(rows[pick] - side / 2, min(0, h - side), max(0, h - side))
        left = np.clip(columns[pick] - side / 2, min(0, w - side), max(0, w - side))
        # Averaging whole areas needs a stop at the crop's own size: cut, pad, then shrink.
        n = max(1, round(side))
        piece = np.zeros((n, n, 4), np.float32)
        y0, x0 = round(float(top)), round(float(left))
        ys, xs = slice(max(0, y0), min(h, y0 + n)), slice(max(0, x0), min(w, x0 + n))
        piece[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = weighted[ys, xs]
        kind = cv2.INTER_AREA if n >= size else cv2.INTER_LINEAR
        small = cv2.resize(piece, (size, size), interpolation=kind)
        length = np.linalg.norm(small[..., :3], axis=-1)
        surface = (small[..., 3] >= 0.5) & (length > 1e-4)
        if surface.any():
            unit = small[..., :3] / np.maximum(length, 1e-6)[..., None]
            yield np.where(surface[..., None], unit, 0).astype(np.float32), surface
