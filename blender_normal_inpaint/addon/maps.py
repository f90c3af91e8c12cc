"""What a repair reads of a map with its masks, and how what it made gets back: for images and tiled ones.

`read_plain` and `read_tiled` run on the main thread, `repaired` in the job's, and `create` and `keep` on the
main thread again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import bpy

from ..core import udim
from ..core.engine import BoolArray, Cancel, FloatArray, Pixels, Progress
from ..core.errors import Cancelled, InpaintError
from ..core.files import lossless, put
from ..core.pipeline import Result
from ..worker.client import WorkerClient
from . import images, png, tiles
from .depth import FileFormat

#: What ends the name of each kind of file.
ENDINGS = {"png": ".png", "tiff": ".tif", "exr": ".exr", "tga": ".tga", "bmp": ".bmp"}

#: What `Map.create` makes an image of.
Content: TypeAlias = "FloatArray | bytes | tiles.Files"


class Fix(Protocol):
    """The repair itself: what `core.pipeline` does, with everything else settled."""

    def one(
        self, pixels: Pixels, mask: BoolArray, valid: BoolArray | None, tile: int | None, part: Progress
    ) -> Result:
        """`inpaint` of a tile by its number, or with None of a map that has none.

        `part` is told how far it is.
        """

    def meet(
        self, holes: Mapping[int, BoolArray], others: Collection[int], read: Callable[[int], Pixels]
    ) -> Iterator[tuple[int, Pixels]]:
        """`meet_tiles`."""


class Paint(Protocol):
    """What was painted on a mask and would be lost by the next undo."""

    def keep(self) -> bool:
        """On the main thread: pack the mask with its paint; whether that was done."""


@dataclass
class Repaired:
    """What the thread brings back: see `create`, and what to say."""

    content: Content
    texels: int
    notices: list[str]
    paint: Paint | None = None


def _found(image: int) -> bpy.types.Image | None:
    """The image with a session's id."""
    return next((item for item in bpy.data.images if item.session_uid == image), None)


# An image ---------------------------------------------------------------------------------------------


@dataclass
class _Mask:
    """A mask image's pixels on their way to bool."""

    raw: images.RawPixels
    threshold: float

    @staticmethod
    def read(image: bpy.types.Image, role: str) -> _Mask:
        images.check_readable(image, role)
        return _Mask(images.read(image), images.mask_threshold(image))

    def to_bool(self) -> BoolArray:
        return self.raw.to_mask(self.threshold)


@dataclass
class _PlainPaint:
    """A painted mask as a PNG file; `image` is a session's id, `checksum` that of Blender's buffer."""

    image: int
    content: bytes
    checksum: int

    @staticmethod
    def of(image: int, raw: images.RawPixels) -> _PlainPaint:
        """In the job's thread."""
        pixels = (raw.grey() or raw).to_native("uint8")
        return _PlainPaint(image, png.encode(pixels), zlib.crc32(raw.buffer.data))

    def keep(self) -> bool:
        """See `Paint`; not if it was painted on meanwhile."""
        image = _found(self.image)
        if image is None or not images.holds_unsaved_paint(image):
            return False
        if zlib.crc32(images.read(image).buffer.data) != self.checksum:
            return False
        images.keep_paint(image, self.content)
        return True


@dataclass
class Plain:
    """A map that is one image. What was read is taken, and so freed, by `repaired`."""

    width: int
    height: int
    is_float: bool
    dtype: str
    raw: images.RawPixels | None
    mask: _Mask | None
    valid: _Mask | None
    #: The mask's image (a session's id) if its paint would be lost by an undo; 0 otherwise.
    unsaved: int

    def repaired(self, fix: Fix, client: WorkerClient, progress: Progress, cancel: Cancel) -> Repaired:
        """In the job's thread. See `core.pipeline.inpaint` for what it raises."""
        assert self.raw is not None and self.mask is not None
        mask = self.mask.to_bool()
        paint = _PlainPaint.of(self.unsaved, self.mask.raw) if self.unsaved else None
        self.mask = None
        valid = self.valid.to_bool() if self.valid is not None else None
        self.valid = None
        pixels: Pixels = self.raw.to_native(self.dtype)
        self.raw = None
        result = fix.one(pixels, mask, valid, None, progress)
        del pixels
        progress(1.0, "Finishing")
        content = images.to_buffer(result.pixels) if self.is_float else png.encode(result.pixels)
        return Repaired(content, result.hole_texels, result.notices, paint)

    def create(self, name: str, alpha_mode: str, content: Content) -> bpy.types.Image:
        """The image of what was repaired. See `images.create_result`."""
        assert not isinstance(content, tiles.Files)
        size = self.width, self.height
        return images.create_result(images.result_name(name), size, alpha_mode=alpha_mode, content=content)


def read_plain(
    source: bpy.types.Image, mask: bpy.types.Image, valid: bpy.types.Image | None
) -> tuple[Plain, FileFormat]:
    """Read a map that is one image, and what kind of file it stands for.

    Raises:
        InpaintError: It or a mask cannot be read, or is unfit.
    """
    images.check_readable(source)
    raw = images.read(source)
    images.check_color_space(source, raw.is_opaque())
    width, height = images.size_of(source)
    found = images.format_of(source)
    unsaved = mask.session_uid if images.holds_unsaved_paint(mask) else 0
    masks = _Mask.read(mask, "mask"), _Mask.read(valid, "valid area") if valid is not None else None
    return Plain(width, height, source.is_float, found.dtype, raw, *masks, unsaved), found


# A tiled image ----------------------------------------------------------------------------------------


@dataclass
class _TiledPaint:
    """A tiled mask that was painted, and packed as the repair began; `image` is a session's id."""

    image: int

    def keep(self) -> bool:
        """See `Paint`: what was painted meanwhile is packed as well."""
        image = _found(self.image)
        if image is None:
            return False
        if image.is_dirty:
            tiles.pack(image)
        return True


@dataclass
class Tiled:
    """A map of tiles; of each the mask and the valid area, if it has them."""

    #: What the files of the result are named for.
    name: str
    parts: Mapping[int, tiles.Tile]
    masks: Mapping[int, tiles.Tile]
    valid: Mapping[int, tiles.Tile]
    #: The kind of files that the map has.
    kind: str
    paint: _TiledPaint | None

    def repaired(self, fix: Fix, client: WorkerClient, progress: Progress, cancel: Cancel) -> Repaired:
        """In the job's thread: the masked tiles are repaired, the others are the same files.

        Raises:
            InpaintError: As `core.pipeline.inpaint`, with the tile's number; or as `WorkerClient.read_map`.
        """
        if not client.alive:
            progress(0.0, "Starting the engine")
            client.ensure_started(cancel)
        files = tiles.Files(self.name)
        try:
            with client.for_files() as handler:
                return self._repaired(fix, handler, files, progress, cancel)
        except BaseException:
            files.folder.remove()
            raise

    def _repaired(
        self, fix: Fix, handler: WorkerClient, files: tiles.Files, progress: Progress, cancel: Cancel
    ) -> Repaired:
        folder = files.folder.path
        masked = self._masked(handler, folder, progress, cancel)
        notices = [
            f"The mask of tile {number} was left out: the map has no such tile."
            for number in masked.keys() - self.parts.keys()
        ]
        wanted = sorted(masked.keys() & self.parts.keys())
        if not wanted:
            raise InpaintError("mask_empty")
        texels, kind = 0, ""
        holes: dict[int, BoolArray] = {}
        for done, number in enumerate(wanted):
            tile, valid = self.parts[number], self.valid.get(number)
            area = handler.read_mask(valid.file(folder, ".png"), cancel=cancel) if valid else None
            pixels = handler.read_map(tile.file(folder, self._ending), cancel=cancel)

            def part(fraction: float, text: str, done: int = done, number: int = number) -> None:
                progress((done + fraction) / len(wanted), f"Tile {number}: {text}")

            try:
                result = fix.one(pixels, masked.pop(number), area, number, part)
            except InpaintError as error:
                error.message = f"Tile {number}: {error.message}"
                raise
            texels += result.hole_texels
            holes[number] = result.repaired
            notices += [f"Tile {number}: {notice}" for notice in result.notices]
            own = lossless(self.kind, pixels.dtype.name)
            kind = kind or own
            handler.write_map(files.add(number, ENDINGS[kind]), result.pixels, own, cancel=cancel)
        progress(1.0, "Finishing")

        def read(number: int) -> Pixels:
            kept = files.paths.get(number) or self.parts[number].file(folder, self._ending)
            return handler.read_map(kept, cancel=cancel)

        for number, pixels in fix.meet(holes, self.parts.keys() - holes.keys(), read):
            handler.write_map(
                files.paths[number], pixels, lossless(self.kind, pixels.dtype.name), cancel=cancel
            )
        for number in self.parts.keys() - wanted:
            self._keep(self.parts[number], kind, handler, files, cancel)
        return Repaired(files, texels, notices, self.paint)

    def _masked(
        self, handler: WorkerClient, folder: Path, progress: Progress, cancel: Cancel
    ) -> dict[int, BoolArray]:
        """The masks of the tiles that have something to repair, by their numbers."""
        masked = {}
        for number, tile in self.masks.items():
            progress(0.0, f"Reading the mask of tile {number}")
            mask = handler.read_mask(tile.file(folder, ".png"), cancel=cancel)
            if mask.any():
                masked[number] = mask
        return masked

    def _keep(
        self, tile: tiles.Tile, kind: str, handler: WorkerClient, files: tiles.Files, cancel: Cancel
    ) -> None:
        """A tile that stays as it is stays the very file, if that is of a kind with the others."""
        if cancel():
            raise Cancelled()
        path = files.add(tile.number, ENDINGS[kind])
        if tile.kind(self.kind) == kind:
            put(path, tile.content())
            return
        pixels = handler.read_map(tile.file(files.folder.path, self._ending), cancel=cancel)
        handler.write_map(path, pixels, lossless(kind, pixels.dtype.name), cancel=cancel)

    @property
    def _ending(self) -> str:
        """For files of packed tiles, which a reader may need to tell what they are."""
        return ENDINGS.get(self.kind, ".png")

    def create(self, name: str, alpha_mode: str, content: Content) -> bpy.types.Image:
        """The image of what was repaired. See `tiles.assembled`."""
        assert isinstance(content, tiles.Files)
        try:
            name = images.result_name(udim.plain(name))
            return tiles.assembled(name, content.paths, alpha_mode=alpha_mode)
        finally:
            content.folder.remove()


def read_tiled(
    source: bpy.types.Image, mask: bpy.types.Image, valid: bpy.types.Image | None
) -> tuple[Tiled, FileFormat]:
    """Find the tiles of a map and its masks, and what kind of files the map has.

    Raises:
        InpaintError: `tiled` if not all of them are tiled; `srgb`; as `tiles.of`.
    """
    for image, role in ((source, "normal map"), (mask, "mask"), (valid, "valid area")):
        if image is not None and not tiles.is_tiled(image):
            raise InpaintError(
                "tiled", f'The {role} "{image.name}" is not a tiled (UDIM) image as others are.'
            )
    images.check_color_space(source, False)
    found = tiles.of(source, "normal map")
    file_format = tiles.format_of(found, source)
    paint = _TiledPaint(mask.session_uid) if images.holds_unsaved_paint(mask) else None
    masks = tiles.of(mask, "mask")
    areas = tiles.of(valid, "valid area") if valid is not None else {}
    name = bpy.path.clean_name(images.result_name(udim.plain(source.name)))
    return Tiled(name, found, masks, areas, file_format.kind, paint), file_format


# A new mask -------------------------------------------------------------------------------------------


@dataclass
class NewMask:
    """A mask for a tiled map, to be: all of its tiles, at their sizes."""

    title: str
    #: What its files are named for.
    name: str
    parts: Mapping[int, tiles.Tile]
    kind: str
    show_map: bool

    def work(self, client: WorkerClient, progress: Progress, cancel: Cancel) -> tiles.Files:
        """In the job's thread: the mask's files.

        Raises:
            InpaintError: As `WorkerClient.read_map`.
        """
        files = tiles.Files(self.name)
        try:
            with client.for_files() as handler:
                for done, (number, tile) in enumerate(self.parts.items()):
                    progress(done / len(self.parts), f"Reading tile {number}")
                    kept = tile.file(files.folder.path, ENDINGS.get(self.kind, ".png"))
                    pixels = handler.read_map(kept, cancel=cancel)
                    mask = png.encode(images.dark_relief(pixels, self.show_map))
                    put(files.add(number, ".png"), mask)
        except BaseException:
            files.folder.remove()
            raise
        return files

    def finish(self, files: tiles.Files) -> bpy.types.Image:
        """On the main thread: the image. See `tiles.assembled`."""
        try:
            return images.as_mask(tiles.assembled(self.title, files.paths))
        finally:
            files.folder.remove()


def new_tiled_mask(source: bpy.types.Image, show_map: bool) -> NewMask:
    """What a mask for a tiled map is made from. See `images.create_mask`; it raises as `tiles.of`."""
    found = tiles.of(source, "normal map")
    file_format = tiles.format_of(found, source)
    title = images.mask_name(udim.plain(source.name))
    return NewMask(title, bpy.path.clean_name(title), found, file_format.kind, show_map)
