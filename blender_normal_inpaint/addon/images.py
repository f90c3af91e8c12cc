"""Blender images and arrays: native samples, (H, W, C), top row first.

Reading and writing Blender's buffers happens on the main thread, in one call each; everything else that
costs time (`RawPixels.to_native`, `to_mask`, `to_buffer`) is plain numpy for the job's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import bpy
import numpy as np

from ..core.engine import BoolArray, FloatArray, Pixels
from ..core.errors import InpaintError
from .depth import FileFormat, sniff_bytes, sniff_file
from .properties import memory_of

SUFFIX = "_inpainted"
_MASK_SUFFIX = "_mask"
#: An ID's name has room for 63 bytes; ".001" must fit as well.
_NAME_BYTES = 59
_EXTENSIONS = (".png", ".tif", ".tiff", ".exr", ".tga", ".jpg", ".jpeg", ".bmp", ".webp", ".hdr", ".jp2")
#: Rows converted at a time, so that temporaries stay small beside the map itself.
_ROWS = 256
#: Blender's names, in old and new versions, for the space in which it renders by default.
_LINEAR = {"Linear Rec.709", "Linear", "Linear BT.709", "Raw"}
#: How bright a new mask shows the map: well below mid grey, and dim once Blender has turned numbers that are
#: not colour into light.
_DARK = 0.25
#: Half grey in sRGB: what Blender makes of a stored 0.5 when it loads a deep image tagged sRGB.
_HALF_LINEAR = 0.21404114


@dataclass(frozen=True)
class RawPixels:
    """Blender's own samples: float32 (H * W * C), bottom row first."""

    buffer: FloatArray
    width: int
    height: int
    channels: int

    def _blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """Rows of the top-first map with their samples, (rows, W, C), block by block."""
        rows = self.buffer.reshape(self.height, self.width, self.channels)[::-1]
        for start in range(0, self.height, _ROWS):
            part = slice(start, min(start + _ROWS, self.height))
            yield part, rows[part]

    def to_native(self, dtype: str) -> Pixels:
        """The samples in the type they have in the file, (H, W, C), top row first.

        Exact for every value that Blender loaded from a file of that type; painted values of a 16-bit
        image are rounded as saving them would.
        """
        kind = np.dtype(dtype)
        result = np.empty((self.height, self.width, self.channels), kind)
        top = {"uint8": 255.0, "uint16": 65535.0}.get(kind.name)
        for part, rows in self._blocks():
            if top is None:
                with np.errstate(over="ignore"):
                    result[part] = rows
            else:
                scaled = np.clip(rows, 0.0, 1.0) * np.float32(top)
                result[part] = np.rint(np.nan_to_num(scaled, copy=False))
        return result

    def to_mask(self, threshold: float = 0.5) -> BoolArray:
        """Where the image is white, (H, W): the same rule as for files, see `core.files.read_mask`.

        Args:
            threshold: What of the image's numbers is mid grey.
        """
        if self.channels == 4 and self._only_alpha_varies():
            return self.buffer.reshape(self.height, self.width, 4)[::-1, :, 3] > 0.5
        result = np.empty((self.height, self.width), bool)
        weights = np.array([0.2126, 0.7152, 0.0722], np.float32)
        for part, rows in self._blocks():
            grey = rows[..., :3] @ weights if self.channels >= 3 else rows[..., 0]
            if self.channels == 4:
                grey = grey * rows[..., 3]
            result[part] = grey > threshold
        return result

    def is_opaque(self) -> bool:
        """Whether alpha is 1 everywhere, so that nothing can have been multiplied by it."""
        return self.channels < 4 or bool((self.buffer[3::4] == 1.0).all())

    def grey(self) -> RawPixels | None:
        """One channel of an opaque grey image; None if it is coloured or transparent anywhere."""
        if self.channels != 4 or not self.is_opaque():
            return None
        red, green, blue = (self.buffer[channel::4] for channel in range(3))
        if not (np.array_equal(red, green) and np.array_equal(red, blue)):
            return None
        return RawPixels(np.ascontiguousarray(red), self.width, self.height, 1)

    def _only_alpha_varies(self) -> bool:
        first = self.buffer[:4]
        alpha = False
        for _, rows in self._blocks():
            if not (rows[..., :3] == first[:3]).all():
                return False
            alpha = alpha or bool((rows[..., 3] != first[3]).any())
        return alpha


def to_buffer(pixels: Pixels) -> FloatArray:
    """Native samples as Blender's buffer: float32 (H * W * 4), bottom row first."""
    height, width, channels = pixels.shape
    result = np.empty((height, width, 4), np.float32)
    if channels < 4:
        result[..., 3] = 1.0
    top = {"uint8": 255, "uint16": 65535}.get(pixels.dtype.name)
    flipped = pixels[::-1]
    for start in range(0, height, _ROWS):
        part = slice(start, min(start + _ROWS, height))
        rows = flipped[part].astype(np.float32)
        if top is not None:
            # As Blender loads a file: a division would give other last bits.
            rows *= np.float32(1.0 / top)
        result[part, :, :channels] = rows
    return result.reshape(-1)


def size_of(image: bpy.types.Image) -> tuple[int, int]:
    """Width and height; Blender loads the file to know them."""
    width, height = cast(Any, image.size)
    return int(width), int(height)


def check_readable(image: bpy.types.Image | None, role: str = "normal map") -> bpy.types.Image:
    """The image if its pixels can be read.

    Whether a tiled image's can is seen when its tiles are looked for, see `tiles.of`.

    Raises:
        InpaintError: `no_pixels` or `unsupported_format`.
    """
    if image is None:
        raise InpaintError("no_pixels", f"No {role} image is chosen.", f"Choose the {role} in the panel.")
    if image.source == "TILED":
        return image
    if image.source not in {"FILE", "GENERATED"} or image.type in {"RENDER_RESULT", "COMPOSITING"}:
        raise InpaintError(
            "unsupported_format",
            f'The {role} "{image.name}" is a movie, a sequence or a render, not a still image.',
            "Save it as a still image and choose that.",
        )
    width, height = size_of(image)
    if width < 1 or height < 1 or image.channels < 1:
        where = f' Its file "{file_path(image)}" is missing or damaged.' if image.filepath else ""
        raise InpaintError(
            "no_pixels",
            f'The {role} "{image.name}" has no pixels.{where}',
            "Find the missing file, reload the image, or choose another.",
        )
    return image


def check_color_space(image: bpy.types.Image, opaque: bool) -> None:
    """Refuse a normal map whose numbers Blender bends before anyone sees them.

    A deep image in the scene's own linear space (as a new 32-bit image is, and an EXR file) has the numbers
    that were stored, unless its alpha was applied to them.

    Args:
        image: The map.
        opaque: Whether it is known to have no alpha that could be applied.

    Raises:
        InpaintError: `srgb`.
    """
    settings = image.colorspace_settings
    if settings.is_data:
        return
    free_of_alpha = image.alpha_mode in {"CHANNEL_PACKED", "PREMUL"} or opaque
    if image.is_float and settings.name in _LINEAR and free_of_alpha:
        return
    saved = " Save its changes first: Blender discards them with the old color space." * image.is_dirty
    raise InpaintError(
        "srgb",
        f'The normal map "{image.name}" is tagged {settings.name}, which would bend its vectors.',
        f"Set the image's Color Space to Non-Color and try again.{saved}",
    )


def file_path(image: bpy.types.Image) -> Path:
    """Where the image's file is (or would be), absolute."""
    return Path(bpy.path.abspath(image.filepath, library=image.library))


def format_of(image: bpy.types.Image) -> FileFormat:
    """The type of file that the image stands for; for a result, its source's.

    Must be called after `check_readable`.
    """
    noted = FileFormat.from_json(memory_of(image).file_format)
    found = noted or _sniff(image)
    if found is None:
        kind = {"OPEN_EXR": "exr", "TIFF": "tiff", "TARGA": "tga", "BMP": "bmp"}.get(image.file_format, "png")
        channels = 4 if image.depth in (32, 64, 128) else 3
        found = FileFormat(
            "exr" if image.is_float else kind, "float32" if image.is_float else "uint8", channels
        )
    if image.is_float and found.dtype == "uint8":
        return FileFormat("exr", "float32", 4)  # painted over or replaced since
    if not image.is_float and found.dtype != "uint8":
        return FileFormat("png", "uint8", found.channels)
    return found


def _sniff(image: bpy.types.Image) -> FileFormat | None:
    if image.packed_file is not None:
        return sniff_bytes(image.packed_file.data)
    if image.source == "FILE" and image.filepath:
        return sniff_file(file_path(image))
    return None


def read(image: bpy.types.Image) -> RawPixels:
    """The image's pixels as they are now, unsaved paint included. Main thread; one copy.

    Raises:
        InpaintError: `no_pixels`, `out_of_memory`.
    """
    width, height = size_of(image)
    channels = image.channels
    try:
        buffer = np.empty(width * height * channels, np.float32)
    except MemoryError as error:
        raise InpaintError("out_of_memory", detail=str(error)) from error
    try:
        cast(Any, image.pixels).foreach_get(buffer)
    except (RuntimeError, TypeError) as error:
        raise InpaintError(
            "no_pixels", f'The pixels of "{image.name}" could not be read.', detail=str(error)
        ) from error
    return RawPixels(buffer, width, height, channels)


def mask_threshold(image: bpy.types.Image) -> float:
    """What of Blender's numbers stands for a stored value of one half."""
    bent = (
        image.is_float and not image.colorspace_settings.is_data and image.colorspace_settings.name == "sRGB"
    )
    return _HALF_LINEAR if bent and image.source == "FILE" else 0.5


def _plain_name(name: str) -> str:
    """A datablock's name without ".001" and without an image file's extension."""
    stem, dot, number = name.rpartition(".")
    if dot and stem and number.isdigit() and len(number) == 3:
        name = stem
    for extension in _EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)]
    return name


def _fit(name: str, suffix: str) -> str:
    room = _NAME_BYTES - len(suffix)
    return name.encode()[:room].decode(errors="ignore") + suffix


def result_name(name: str) -> str:
    """The name for a result made from an image of this name; a result's own keeps it."""
    plain = _plain_name(name)
    if plain.endswith(SUFFIX):
        plain = plain.removesuffix(SUFFIX)
    return _fit(plain, SUFFIX)


def create_result(
    name: str, size: tuple[int, int], *, alpha_mode: str, content: FloatArray | bytes
) -> bpy.types.Image:
    """A new Non-Color image with these pixels, packed so that it is saved with the .blend.

    Args:
        name: Its name; Blender numbers it if taken.
        size: Width and height.
        alpha_mode: As the source's.
        content: What `to_buffer` made, for a float image, or what `png.encode` made, for one of 8 bits.

    Raises:
        InpaintError: `out_of_memory`; no image is left behind.
    """
    image = None
    is_float = not isinstance(content, bytes)
    try:
        image = bpy.data.images.new(name, *size, alpha=True, float_buffer=is_float, is_data=True)
        # Before the pixels: changing it later would throw them away.
        image.alpha_mode = cast(Any, alpha_mode)
        if isinstance(content, bytes):
            cast(Any, image).pack(data=content, data_len=len(content))
            image.source = "FILE"
            if size_of(image) != size:
                raise RuntimeError("Blender cannot read the packed result")
        else:
            cast(Any, image.pixels).foreach_set(content)
            image.update()
            image.pack()
    except (RuntimeError, MemoryError, TypeError) as error:
        if image is not None:
            bpy.data.images.remove(image)
        raise InpaintError(
            "out_of_memory", "Blender could not make the result image.", detail=str(error)
        ) from error
    return image


def create_mask(source: bpy.types.Image, *, show_map: bool = True) -> bpy.types.Image:
    """A Non-Color image of the source's size that masks nothing yet, to be painted white where to repair.

    Args:
        source: The map.
        show_map: Whether it shows the map as a dark relief, on which damage is seen while it is painted
            over; black otherwise.

    Raises:
        InpaintError: As `read`; no image is left behind.
    """
    width, height = size_of(source)
    buffer = _dark_buffer(read(source)) if show_map else None
    name = mask_name(source.name)
    image = bpy.data.images.new(name, width, height, alpha=False, float_buffer=False, is_data=True)
    cast(Any, image).generated_color = (0.0, 0.0, 0.0, 1.0)
    as_mask(image)
    if buffer is not None:
        cast(Any, image.pixels).foreach_set(buffer)
        image.update()
    return image


def mask_name(name: str) -> str:
    """The name for a mask of an image of this name."""
    return _fit(_plain_name(name).removesuffix(_MASK_SUFFIX), _MASK_SUFFIX)


def as_mask(image: bpy.types.Image) -> bpy.types.Image:
    """The image, remembered as a mask made here."""
    memory_of(image).is_mask = True
    return image


def _dark(samples: FloatArray) -> FloatArray:
    """Rows of a map, (rows, W, C) of 0..1, as if lit from a corner, (rows, W, 1): too dark for a mask."""
    # What red and green share is the slope along one diagonal.
    light = samples[..., :2].mean(axis=-1, keepdims=True)
    return np.asarray(np.clip(np.nan_to_num(light), 0.0, 1.0) * _DARK, np.float32)


def dark_relief(pixels: Pixels, show_map: bool) -> Pixels:
    """A mask's pixels, uint8 (H, W, 1): native samples as `_dark` shows them, or black."""
    result = np.zeros((*pixels.shape[:2], 1), np.uint8)
    top = {"uint8": 255, "uint16": 65535}.get(pixels.dtype.name, 1)
    for start in range(0, len(pixels) if show_map else 0, _ROWS):
        rows = pixels[start : start + _ROWS].astype(np.float32)
        result[start : start + _ROWS] = np.rint(_dark(rows * np.float32(1 / top)) * 255)
    return result


def _dark_buffer(raw: RawPixels) -> FloatArray:
    """Blender's buffer of the map as `_dark` shows it, opaque."""
    result = np.empty((raw.height, raw.width, 4), np.float32)
    result[..., 3] = 1.0
    samples = raw.buffer.reshape(raw.height, raw.width, raw.channels)
    for start in range(0, raw.height, _ROWS):
        part = slice(start, start + _ROWS)
        result[part, :, :3] = _dark(samples[part])
    return result.reshape(-1)


def holds_unsaved_paint(image: bpy.types.Image) -> bool:
    """Whether a mask made here was painted since it was packed: the next undo of anything would lose that."""
    kept = image.source == "GENERATED" or len(cast(Any, image.packed_files)) > 0
    return bool(memory_of(image).is_mask and image.is_dirty and kept)


def keep_paint(image: bpy.types.Image, content: bytes) -> None:
    """Pack a mask as a PNG file that holds exactly its pixels; Blender's own packing would take longer."""
    cast(Any, image).pack(data=content, data_len=len(content))
    if image.source != "FILE":
        image.source = "FILE"
    elif not image.filepath:
        image.reload()  # from what was packed: there is no file. The same pixels, no longer unsaved
