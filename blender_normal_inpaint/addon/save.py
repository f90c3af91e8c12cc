"""Writing a result to a file at its source's type and depth.

Blender's own saving is inexact for some of them (it divides 16-bit RGBA by alpha and makes floats of
halves), so the worker writes the file, through `core.files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bpy

from ..core.engine import Cancel, Pixels, Progress
from ..worker.client import WorkerOptions
from . import images, jobs, preferences
from .depth import FileFormat
from .properties import memory_of

_ENDINGS = {"png": ".png", "tiff": ".tif", "exr": ".exr", "tga": ".tga", "bmp": ".bmp"}
_KNOWN = {*_ENDINGS.values(), ".tiff", ".jpg", ".jpeg", ".webp", ".hdr"}


@dataclass
class Saving:
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

    def finish(self, path: Path) -> str:
        """On the main thread: the sentence to report."""
        jobs.state.notices = []
        return f'Saved "{path}".'


def prepare(image: bpy.types.Image, path: Path) -> Saving:
    """Read everything a saving needs. Main thread.

    Raises:
        InpaintError: The image has no pixels.
    """
    images.check_readable(image, "result")
    file_format = images.format_of(image)
    if path.suffix.lower() not in _KNOWN:
        path = path.with_name(path.name + _ENDINGS.get(file_format.kind, ".png"))
    return Saving(path, images.read(image), file_format, preferences.worker_options())


def suggested_path(image: bpy.types.Image) -> Path:
    """Beside the file that the result was made from, else beside the .blend."""
    images.check_readable(image, "result")
    ending = _ENDINGS.get(images.format_of(image).kind, ".png")
    origin = memory_of(image).file_path
    folder = Path(origin).parent if origin else Path(bpy.path.abspath("//") or Path.home())
    name = images.result_name(Path(origin).name) if origin else image.name
    return folder / f"{bpy.path.clean_name(name)}{ending}"
