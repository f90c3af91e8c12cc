"""Writing a result to a file at its source's type and depth.

Blender's own saving is inexact for some of them (it divides 16-bit RGBA by alpha and makes floats of
halves), so the worker writes the file, through `core.files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import bpy

from ..core import udim
from ..core.engine import Cancel, Pixels, Progress
from ..core.errors import Cancelled
from ..core.files import put
from ..worker.client import WorkerOptions
from ..worker.jobfolder import JobFolder
from . import images, jobs, preferences, tiles
from .depth import FileFormat
from .maps import ENDINGS
from .properties import memory_of

#: Other endings of the same kinds.
_ALIKE = {"tiff": (".tiff",), "jpeg": (".jpg", ".jpeg"), "webp": (".webp",), "hdr": (".hdr",)}
_KNOWN = {*ENDINGS.values(), ".tiff", ".jpg", ".jpeg", ".webp", ".hdr"}


class _Task:
    """What both kinds of saving share."""

    def finish(self, path: Path) -> str:
        """On the main thread: the sentence to report."""
        jobs.state.notices = []
        return f'Saved "{path}".'


@dataclass
class Saving(_Task):
    """Everything one saving needs, free of references into Blender's data."""

    path: Path
    raw: images.RawPixels | None
    file_format: FileFormat
    worker: WorkerOptions

    def work(self, progress: Progress, cancel: Cancel) -> Path:
        """In the job's thread: write the file. See `core.files.write_map` for what it raises."""
        progress(0.0, "Saving")
        assert self.raw is not None
        pixels: Pixels = self.raw.to_native(self.file_format.dtype)[..., : self.file_format.channels]
        self.raw = None
        client = jobs.client_for(self.worker)
        client.write_map(self.path, pixels, progress=progress, cancel=cancel)
        return self.path


@dataclass
class TiledSaving(_Task):
    """The same for a tiled image: `path` stands for all of its tiles' files."""

    path: Path
    parts: Mapping[int, tiles.Tile]
    kind: str
    worker: WorkerOptions

    def work(self, progress: Progress, cancel: Cancel) -> Path:
        """In the job's thread: write the files. See `core.files.write_map` for what it raises."""
        ending = self.path.suffix.lower()
        folder = JobFolder()
        try:
            with jobs.client_for(self.worker).for_files() as handler:
                for done, (number, tile) in enumerate(self.parts.items()):
                    progress(done / len(self.parts), f"Saving tile {number}")
                    if cancel():
                        raise Cancelled()
                    target = udim.in_path(self.path, number)
                    kind = tile.kind(self.kind)
                    if ending in {ENDINGS.get(kind), *_ALIKE.get(kind, ())}:
                        put(target, tile.content())
                        continue
                    pixels = handler.read_map(
                        tile.file(folder.path, ENDINGS.get(kind, ".png")), cancel=cancel
                    )
                    handler.write_map(target, pixels, cancel=cancel)
        finally:
            folder.remove()
        return self.path


def prepare(image: bpy.types.Image, path: Path) -> Saving | TiledSaving:
    """Read everything a saving needs. Main thread.

    Raises:
        InpaintError: The image has no pixels, or is tiled and has changes that are not packed.
    """
    images.check_readable(image, "result")
    file_format = images.format_of(image)
    if path.suffix.lower() not in _KNOWN:
        path = path.with_name(path.name + ENDINGS.get(file_format.kind, ".png"))
    if tiles.is_tiled(image):
        kept = tiles.of(image, "result")
        return TiledSaving(udim.pattern(path), kept, file_format.kind, preferences.worker_options())
    return Saving(path, images.read(image), file_format, preferences.worker_options())


def suggested_path(image: bpy.types.Image) -> Path:
    """Beside the file that the result was made from, else beside the .blend."""
    images.check_readable(image, "result")
    ending = ENDINGS.get(images.format_of(image).kind, ".png")
    origin = memory_of(image).file_path
    folder = Path(origin).parent if origin else Path(bpy.path.abspath("//") or Path.home())
    tiled = tiles.is_tiled(image)
    name = Path(origin).name if origin else image.name
    name = udim.plain(name) if tiled else name
    path = folder / f"{bpy.path.clean_name(images.result_name(name) if origin else name)}{ending}"
    if not tiled:
        return path
    # Blender warns before it replaces a file, but knows nothing of tiles.
    free = (path.with_stem(f"{path.stem}_{number}" if number > 1 else path.stem) for number in count(1))
    return next(each for each in map(udim.pattern, free) if not udim.tiles(each))
