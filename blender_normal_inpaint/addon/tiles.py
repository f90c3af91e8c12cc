"""Tiled (UDIM) images: their tiles as the image files that they are, and images made of such files.

Blender gives scripts the pixels of an image's first tile alone, whichever is active. So tiles are read from
where they are kept, on disk or packed in the .blend, and a new tiled image is made of files. What costs time
is for the job's thread: `Tile.file`, and whatever is done with the files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import bpy

from ..core import udim
from ..core.errors import InpaintError
from ..core.files import put
from ..worker.jobfolder import JobFolder
from ..worker.protocol import storage_error
from . import images
from .depth import FileFormat, sniff_bytes, sniff_file
from .properties import memory_of


@dataclass(frozen=True)
class Tile:
    """One tile as it is kept: a file on disk, or the content of one that is packed in the .blend."""

    number: int
    kept: Path | bytes

    def format(self) -> FileFormat | None:
        """What its first bytes tell; None for kinds that they do not tell."""
        return sniff_bytes(self.kept) if isinstance(self.kept, bytes) else sniff_file(self.kept)

    def kind(self, otherwise: str) -> str:
        """The kind of file that it is; `otherwise` where its first bytes do not tell."""
        found = self.format()
        return found.kind if found is not None else otherwise

    def content(self) -> bytes:
        """In the job's thread: the whole file."""
        return self.kept if isinstance(self.kept, bytes) else self.kept.read_bytes()

    def file(self, folder: Path, ending: str) -> Path:
        """In the job's thread: a file of it. What is packed is written into a folder.

        Raises:
            InpaintError: `disk_full`, `not_writable`.
        """
        if isinstance(self.kept, Path):
            return self.kept
        path = folder / f"kept.{self.number}{ending}"
        put(path, self.kept)
        return path


class Files:
    """Tiles' files by their numbers, in a private folder, on their way to an image.

    Args:
        name: of the image; the files are named for it, for they are what unpacking it would write.

    Raises:
        InpaintError: `disk_full`, `not_writable`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.paths: dict[int, Path] = {}
        try:
            self.folder = JobFolder()
        except OSError as error:
            raise storage_error(error, "the tiles", Path(tempfile.gettempdir())) from error

    def add(self, number: int, ending: str) -> Path:
        """Where a tile's file is to be written."""
        path = self.paths[number] = self.folder.path / f"{self._name}.{number}{ending}"
        return path


def is_tiled(image: bpy.types.Image | None) -> bool:
    """Whether it is a tiled image."""
    return image is not None and image.source == "TILED"


def of(image: bpy.types.Image, role: str) -> dict[int, Tile]:
    """The tiles of an image by their numbers, those that have pixels. Main thread.

    What lies in memory alone, as the paint of a mask made here does, is packed: nothing of it is lost, and it
    can be read.

    Raises:
        InpaintError: `unsaved` if what is kept is not what is seen; `no_pixels`.
    """
    if image.is_dirty:
        # What was packed as a file of its own kind would not be so again; and what is on disk stays there.
        if not memory_of(image).is_mask if len(image.packed_files) else image.filepath:
            raise InpaintError("unsaved", f'The tiled {role} "{image.name}" has changes that are not saved.')
        pack(image)
    packed = {item.tile_number: item.packed_file.data for item in cast(Any, image.packed_files)}
    path = images.file_path(image)
    result = {}
    for number in sorted(tile.number for tile in cast(Any, image.tiles)):
        if number in packed:
            result[number] = Tile(number, bytes(packed[number]))
        elif image.filepath and udim.in_path(path, number).is_file():
            result[number] = Tile(number, udim.in_path(path, number))
    if not result:
        raise InpaintError("no_pixels", f'The tiled {role} "{image.name}" has no pixels, in files or packed.')
    return result


def format_of(found: Mapping[int, Tile], image: bpy.types.Image) -> FileFormat:
    """The type of file of an image's tiles: of the first one."""
    return next(iter(found.values())).format() or images.format_of(image)


def pack(image: bpy.types.Image) -> None:
    """Pack a tiled image as it is seen, paint included. Main thread.

    Raises:
        InpaintError: `no_pixels`; it is as it was.
    """
    # Blender packs the tiles that are in memory, and forgets the others. Asked for its size each is loaded.
    lost = [tile.number for tile in cast(Any, image.tiles) if not all(tile.size)]
    had = {item.tile_number for item in cast(Any, image.packed_files)}
    if had.intersection(lost):
        raise InpaintError("no_pixels", f'A tile of "{image.name}" could not be read: {min(lost)}.')
    try:
        cast(Any, image).pack()
    except RuntimeError as error:
        raise InpaintError(
            "no_pixels", f'The tiled image "{image.name}" could not be packed.', detail=str(error)
        ) from error


def load(path: Path) -> bpy.types.Image:
    """Open the tiles of a path that names them all.

    Raises:
        InpaintError: `unreadable` if there is none.
    """
    found = list(udim.tiles(path).values())
    if not found:
        raise InpaintError("unreadable", f"There are no tiles {path.name}.")
    image: bpy.types.Image = bpy.data.images.load(str(found[0]), check_existing=False)
    image.source = "TILED"
    return image


def assembled(name: str, paths: Mapping[int, Path], *, alpha_mode: str = "STRAIGHT") -> bpy.types.Image:
    """A new Non-Color image of these tiles, packed so that it is saved with the .blend. Main thread.

    Args:
        name: Its name; Blender numbers it if taken.
        paths: The tiles' files, alike in name but for their numbers.
        alpha_mode: As the source's.

    Raises:
        InpaintError: `out_of_memory`; no image is left behind.
    """
    image = None
    try:
        image = bpy.data.images.load(str(paths[min(paths)]), check_existing=False)
        image.colorspace_settings.name = cast(Any, "Non-Color")
        image.alpha_mode = cast(Any, alpha_mode)
        image.source = "TILED"
        cast(Any, image).pack()
        packed = {item.tile_number for item in cast(Any, image.packed_files)}
        if packed != set(paths):
            raise RuntimeError(f"tiles {sorted(packed)} of {sorted(paths)} were packed")
        # The files are gone soon. As it is: a path that is set is looked for.
        image.filepath_raw = ""
        image.name = name
    except (RuntimeError, MemoryError) as error:
        if image is not None:
            bpy.data.images.remove(image)
        raise InpaintError(
            "out_of_memory", "Blender could not make the tiled image.", detail=str(error)
        ) from error
    return image
