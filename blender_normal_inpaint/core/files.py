"""Image files in and out, at the depth they came in, through OpenImageIO (imported on first use)."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .engine import BoolArray, Pixels
from .errors import InpaintError

#: How each format is called by OpenImageIO, by file ending.
_FORMATS = {
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".exr": "openexr",
    ".tga": "targa",
    ".bmp": "bmp",
}

#: Other names for the same, as Blender and people use them.
_KINDS = {"png": "png", "tiff": "tiff", "tif": "tiff", "exr": "openexr", "tga": "targa", "bmp": "bmp"}

#: What each format can hold without loss.
_DEPTHS = {
    "png": ("uint8", "uint16"),
    "tiff": ("uint8", "uint16", "float32"),
    "openexr": ("float16", "float32"),
    "targa": ("uint8",),
    "bmp": ("uint8",),
}

_NATIVE = {"uint8": "uint8", "uint16": "uint16", "half": "float16", "float": "float32"}
_OIIO_TYPES = {"uint8": "uint8", "uint16": "uint16", "float16": "half", "float32": "float"}

#: Endings of the images looked for in a folder.
READABLE = (".png", ".tif", ".tiff", ".exr", ".tga", ".bmp", ".jpg", ".jpeg")

_WRITABLE_HINT = "Name the result .png or .tif for integers, .exr or .tif for floats."

_FULL = (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC, errno.EFBIG)


@dataclass(frozen=True)
class MapFile:
    """A map as read from a file.

    `pixels` is (H, W, C) in the file's own type, top row first, colour not multiplied by alpha. `format`
    is OpenImageIO's name of the file's format and `spec` its description, with which the same kind of
    file is written again.
    """

    pixels: Pixels
    format: str
    spec: Any


def _oiio() -> ModuleType:
    try:
        import OpenImageIO
    except ImportError as error:
        raise InpaintError(
            "engine_unavailable",
            "Image files cannot be read or written, because OpenImageIO is not installed here.",
            "Install the package openimageio for this Python.",
            detail=str(error),
        ) from error
    module: ModuleType = OpenImageIO
    return module


def _short(text: str) -> str:
    """An error text of OpenImageIO without its endless repetitions."""
    return text.strip()[:400]


def _unreadable(path: Path, why: str) -> InpaintError:
    return InpaintError(
        "unreadable", f"The image {path.name} could not be read.", detail=f"{path}: {_short(why)}"
    )


def _open(path: Path) -> tuple[Any, Any]:
    """The open file and its description."""
    oiio = _oiio()
    if not path.is_file():
        raise InpaintError("unreadable", f"There is no file {path.name}.", detail=str(path))
    wishes = oiio.ImageSpec()
    # Without this, colour would be multiplied by alpha, which loses bits that nothing brings back.
    wishes.attribute("oiio:UnassociatedAlpha", 1)
    source = oiio.ImageInput.open(str(path), wishes)
    if source is None:
        raise _unreadable(path, oiio.geterror())
    return source, source.spec()


def read_map(path: Path) -> MapFile:
    """Read a normal map with the bits its file has.

    Raises:
        InpaintError: `unreadable` for a file that is missing, damaged or no image; `unsupported_format`
            for one that cannot hold a normal map: grey with alpha, more than four channels, other sample
            types than 8 and 16 bit integers, half and float, several images in one file.
    """
    path = Path(path)
    source, spec = _open(path)
    try:
        kind = str(spec.format)
        if kind not in _NATIVE:
            raise InpaintError(
                "unsupported_format",
                f"The samples of {path.name} are of type {kind}, which a normal map cannot use here.",
                "Save it with 8 or 16 bit integers, half or float samples.",
            )
        if spec.nchannels == 2 and spec.alpha_channel == 1:
            raise InpaintError(
                "unsupported_format",
                f"{path.name} is a grey image with alpha, which cannot hold a normal map.",
                "Save the map as RGB or RGBA.",
            )
        if not 2 <= spec.nchannels <= 4:
            raise InpaintError(
                "unsupported_format",
                f"{path.name} has {spec.nchannels} channel(s), which cannot hold a normal map.",
                "Save the map as RGB or RGBA.",
            )
        several = spec.depth > 1 or spec.deep or source.seek_subimage(1, 0)
        source.geterror()  # that there is no second image is no error
        if several or not source.seek_subimage(0, 0):
            raise InpaintError(
                "unsupported_format",
                f"{path.name} holds several images or layers.",
                "Save the normal map by itself in a file of its own.",
            )
        if spec.width < 1 or spec.height < 1:
            raise _unreadable(path, "the image has no size")
        pixels = source.read_image(0, 0, 0, spec.nchannels, spec.format)
        trouble = source.geterror()
        if pixels is None or trouble:
            raise _unreadable(path, trouble or "the pixels are missing")
        form = source.format_name()
    finally:
        source.close()
    pixels = np.ascontiguousarray(pixels).reshape(spec.height, spec.width, spec.nchannels)
    return MapFile(pixels.astype(_NATIVE[kind], copy=False), form, spec)


def read_mask(path: Path) -> BoolArray:
    """Read a mask: True where the image is brighter than mid grey.

    The brightness is the luminance (0.2126, 0.7152, 0.0722) of the stored values, times alpha if there
    is one. Where the colour is the same all over the image, alpha alone is the mask.

    Returns:
        bool (H, W).

    Raises:
        InpaintError: `unreadable`.
    """
    path = Path(path)
    source, spec = _open(path)
    try:
        # A byte each is plenty for a threshold, but floats may lie outside of 0..1.
        kind = "uint8" if str(spec.format) == "uint8" else "half"
        pixels = source.read_image(0, 0, 0, spec.nchannels, kind)
        trouble = source.geterror()
        if pixels is None or trouble:
            raise _unreadable(path, trouble or "the pixels are missing")
        alpha_channel = int(spec.alpha_channel)
    finally:
        source.close()
    pixels = np.asarray(pixels).reshape(spec.height, spec.width, spec.nchannels)
    top = 255.0 if kind == "uint8" else 1.0
    colours = [channel for channel in range(spec.nchannels) if channel != alpha_channel][:3]
    weights = (0.2126, 0.7152, 0.0722) if len(colours) == 3 else (1.0, 0.0, 0.0)
    alpha = None
    if alpha_channel >= 0:
        alpha = pixels[..., alpha_channel]
        if all((pixels[..., channel] == pixels[0, 0, channel]).all() for channel in colours):
            flat = bool((alpha == alpha[0, 0]).all())
            if not flat or not colours:
                return np.asarray(alpha > 0.5 * top)
    result = np.zeros(pixels.shape[:2], np.bool_)
    depth = max(1, (1 << 20) // pixels.shape[1])
    for start in range(0, pixels.shape[0], depth):
        rows = slice(start, start + depth)
        brightness = np.zeros(pixels[rows].shape[:2], np.float32)
        for channel, weight in zip(colours, weights, strict=False):
            brightness += np.float32(weight) * pixels[rows][..., channel]
        if alpha is not None:
            brightness *= alpha[rows].astype(np.float32) / np.float32(top)
        result[rows] = brightness > 0.5 * top
    return result


def _refuse(path: Path, pixels: Pixels, form: str | None) -> None:
    if form is None:
        raise InpaintError(
            "unsupported_format",
            f"A result cannot be written as {path.suffix or 'a file without ending'}: the texels outside "
            "the mask would not keep their values.",
            _WRITABLE_HINT,
        )
    if str(pixels.dtype) not in _DEPTHS[form]:
        raise InpaintError(
            "unsupported_format",
            f"{path.suffix} files cannot hold {pixels.dtype} samples, which this map has.",
            _WRITABLE_HINT,
        )


def check_target(path: Path, like: MapFile) -> None:
    """Find out before the work whether `write_map` could write that file.

    Raises:
        InpaintError: `unsupported_format` or `not_writable`.
    """
    path = Path(path)
    form = _FORMATS.get(path.suffix.lower())
    if form != like.format:
        _refuse(path, like.pixels, form)
    if not path.parent.is_dir():
        raise _not_writable(path, f"the folder {path.parent} does not exist")
    if path.is_dir():
        raise _not_writable(path, "it is a folder")


def _not_writable(path: Path, why: str) -> InpaintError:
    return InpaintError(
        "not_writable", f"The result {path.name} could not be written: {why}.", detail=str(path)
    )


def _storage(path: Path, error: OSError) -> InpaintError:
    if error.errno in _FULL:
        return InpaintError(
            "disk_full", f"The disk is full, so {path.name} could not be written.", detail=str(error)
        )
    return InpaintError(
        "not_writable",
        f"The result {path.name} could not be written: {error.strerror or error}.",
        detail=str(error),
    )


def _failed(path: Path, temporary: Path, pixels: Pixels, text: str) -> InpaintError:
    """What a failure inside OpenImageIO means: it gives words, not numbers."""
    words = text.lower()
    free = pixels.nbytes + 1
    with suppress(OSError):
        free = shutil.disk_usage(temporary.parent).free
    cut_short = any(
        phrase in words for phrase in ("could only write", "failed to write", "failed writing", "seek error")
    )
    if "no space" in words or "too large" in words or cut_short or free < pixels.nbytes // 64:
        return InpaintError(
            "disk_full", f"The disk is full, so {path.name} could not be written.", detail=_short(text)
        )
    return InpaintError("not_writable", f"The result {path.name} could not be written.", detail=_short(text))


def _spec_for(pixels: Pixels, form: str, like: MapFile | None) -> Any:
    spec = _plain_spec_for(pixels, form, like)
    if form == "tiff" and not any(entry.name.startswith("Exif:") for entry in spec.extra_attribs):
        # OpenImageIO 3.2 complains of every TIFF without any such field; 65535 means "uncalibrated".
        spec.attribute("Exif:ColorSpace", 65535)
    return spec


def _plain_spec_for(pixels: Pixels, form: str, like: MapFile | None) -> Any:
    oiio = _oiio()
    height, width, channels = pixels.shape
    kind = _OIIO_TYPES[str(pixels.dtype)]
    if like is not None and like.format == form and str(like.spec.format) == kind:
        spec = oiio.ImageSpec(like.spec)
        if spec.nchannels == channels and (spec.width, spec.height) == (width, height):
            # Everything the source said about itself stays; only its tiling is for files that are cut up.
            spec.tile_width = spec.tile_height = spec.tile_depth = 0
            return spec
    spec = oiio.ImageSpec(width, height, channels, kind)
    if channels == 2:
        spec.channelnames = ("R", "G")
    if channels == 4 and form != "openexr":
        spec.attribute("oiio:UnassociatedAlpha", 1)
    return spec


def lossless(kind: str, dtype: str) -> str:
    """The kind of file, such as "png", for samples of a type: `kind` if it holds them, else another."""
    if dtype in _DEPTHS.get(_KINDS.get(kind, ""), ()):
        return kind
    return "png" if dtype.startswith("uint") else "exr"


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A file beside a place, to be written: moved there at the end, in place of the old one, or not at all.

    Raises:
        InpaintError: `not_writable`, `disk_full`.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        # Python's own file gives errors with a number, and the permissions that a new file should have.
        with temporary.open("wb"):
            pass
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _storage(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def put(path: Path, content: bytes) -> None:
    """Write a file that is all there already: whole or not at all.

    Raises:
        InpaintError: `not_writable`, `disk_full`.
    """
    with _replaced(path) as temporary:
        temporary.write_bytes(content)


def write_map(path: Path, pixels: Pixels, like: MapFile | str | None = None) -> None:
    """Write a map beside its place and move it there, so that an old file is replaced whole or not at all.

    Args:
        path: Where to. Its ending says which format, unless `like` does.
        pixels: (H, W, C), uint8, uint16, float16 or float32, top row first, colour not multiplied by
            alpha.
        like: The file that the map came from: its compression, channel names and colour tags are kept
            if the format is the same. Or the name of a format: "png", "tiff", "exr", "tga", "bmp".

    Raises:
        InpaintError: `unsupported_format` if that kind of file cannot hold the samples without loss,
            `not_writable`, `disk_full`.
    """
    path = Path(path)
    form = _FORMATS.get(path.suffix.lower())
    source = None
    if isinstance(like, MapFile):
        source = like
    elif like is not None:
        form = _KINDS.get(like.lower())
    _refuse(path, pixels, form)
    assert form is not None
    if path.is_dir():
        raise _not_writable(path, "it is a folder")
    oiio = _oiio()
    with _replaced(path) as temporary:
        target = oiio.ImageOutput.create(form)
        if target is None:
            raise InpaintError(
                "unsupported_format", f"{path.suffix} files cannot be written here.", _WRITABLE_HINT
            )
        trouble = ""
        if not target.open(str(temporary), _spec_for(pixels, form, source)):
            trouble = target.geterror() or "it could not be opened"
        else:
            # Some writers report success and leave a message; only silence is success.
            fine = target.write_image(np.ascontiguousarray(pixels))
            trouble = target.geterror()
            fine = target.close() and fine
            trouble = (trouble + "\n" + target.geterror()).strip()
            if not fine and not trouble:
                trouble = "it could not be written whole"
        if trouble:
            raise _failed(path, temporary, pixels, trouble)
