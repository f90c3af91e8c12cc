"""Normal vectors and their encodings; the only place that knows how a map stores a vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .engine import BoolArray, FloatArray, Pixels
from .errors import InpaintError
from .modelcard import SPACES

#: The sample types that a map may have.
DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float16), np.dtype(np.float32))

#: A decoded vector shorter than this says nothing about a direction. Mid grey in 8 bits (127 or 128)
#: decodes to a length of 0.007; two averaged opposite neighbours may reach 0.05, real ones do not.
ZERO_LENGTH = 0.05


@dataclass(frozen=True)
class Encoding:
    """How a map's numbers stand for vectors: v = n * 0.5 + 0.5, with these choices.

    Args:
        space: "tangent", "object" or "camera".
        y_axis: "up" (OpenGL) or "down" (DirectX): the direction that more green means.
        up_axis: Of object space only: "y", or "z" for Blender's axes (x right, y into the scene, z up).
        two_channel: The map stores x and y alone; z is rebuilt as sqrt(1 - x^2 - y^2).

    Raises:
        ValueError: A field has another value.
    """

    space: str = "tangent"
    y_axis: str = "up"
    up_axis: str = "y"
    two_channel: bool = False

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, not {self.space!r}")
        if self.y_axis not in ("up", "down"):
            raise ValueError(f"y_axis must be up or down, not {self.y_axis!r}")
        if self.up_axis not in ("y", "z"):
            raise ValueError(f"up_axis must be y or z, not {self.up_axis!r}")


def check_pixels(pixels: Pixels) -> None:
    """Refuse an array that is not a native map: (H, W, C) with C in 1..4 and a type of `DTYPES`.

    Raises:
        InpaintError: `unsupported_format`.
    """
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or pixels.dtype not in DTYPES:
        raise InpaintError(
            "unsupported_format",
            f"An array of shape {pixels.shape} and type {pixels.dtype} is not a normal map.",
            "Use (height, width, channels) with 1 to 4 channels of uint8, uint16, float16 or float32.",
        )


def to_float(values: NDArray[Any]) -> FloatArray:
    """Native samples as float32: integers scaled so that their maximum is 1, floats as they are."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    if values.dtype == np.uint16:
        return values.astype(np.float32) / np.float32(65535)
    return values.astype(np.float32)


def from_float(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Float samples in a native type: integers rounded to nearest and clipped, floats as they are."""
    kind = np.dtype(dtype)
    if kind == np.uint8 or kind == np.uint16:
        top = 255 if kind == np.uint8 else 65535
        scaled: NDArray[Any] = np.rint(np.clip(values, 0.0, 1.0) * np.float32(top))
        return scaled.astype(kind)
    return np.asarray(values).astype(kind)


def unit(vectors: FloatArray) -> FloatArray:
    """The vectors (..., 3) at unit length; those too short to have a direction become (0, 0, 1)."""
    scale = dot(vectors, vectors)
    short = ~(scale > np.float32(1e-12))  # also true of NaN
    any_short = bool(short.any())
    if any_short:
        scale = np.where(short, np.float32(1), scale)
    scale = np.sqrt(scale, dtype=np.float32)
    scale = np.reciprocal(scale)
    result: FloatArray = np.empty(vectors.shape, np.float32)
    for i in range(3):
        np.multiply(vectors[..., i], scale, out=result[..., i], dtype=np.float32)
    if any_short:
        put(result, short, (0.0, 0.0, 1.0))
    return result


def put(vectors: FloatArray, where: BoolArray, value: tuple[float, float, float]) -> None:
    """Set the vectors (..., 3) at some places, bool (...), in place.

    Of whole areas of a map this takes a tenth of the time that NumPy's assignment by a mask does.
    """
    for i, number in enumerate(value):
        np.copyto(vectors[..., i], np.float32(number), where=where)


def dot(first: FloatArray, second: FloatArray) -> FloatArray:
    """Scalar products along a last axis of a few numbers: (...). Faster than NumPy's."""
    result: FloatArray = first[..., 0] * second[..., 0]
    for i in range(1, first.shape[-1]):
        result += first[..., i] * second[..., i]
    return result


def cross(first: FloatArray, second: FloatArray) -> FloatArray:
    """Cross products along the last axis: float32 (..., 3). Faster than NumPy's."""
    result = np.empty(np.broadcast_shapes(first.shape, second.shape), np.float32)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        result[..., i] = first[..., j] * second[..., k] - first[..., k] * second[..., j]
    return result


def quarter_turned(field: NDArray[Any], quarters: int, space: str = "camera") -> NDArray[Any]:
    """A map turned in the picture, counter-clockwise: nothing is interpolated.

    Args:
        field: (h, w, 3) vectors, or (h, w) of anything that has no direction.
        quarters: of a turn; negative ones are clockwise.
        space: of the vectors; in object space a turned layout leaves them alone.
    """
    result = np.rot90(field, quarters).copy()
    if field.ndim == 3 and space != "object":
        for _ in range(quarters % 4):
            x, y = result[..., 0].copy(), result[..., 1]
            result[..., 0], result[..., 1] = -y, x
    return result


def _signs(encoding: Encoding) -> FloatArray:
    return np.array([1.0, 1.0 if encoding.y_axis == "up" else -1.0, 1.0], np.float32)


def decode_vectors(pixels: Pixels, encoding: Encoding) -> FloatArray:
    """The vectors a map stores, in the internal frame, at the length they have.

    Args:
        pixels: (H, W, C) native samples, top row first; C of at least 3, or 2 for a two-channel map.
        encoding: How they are stored.

    Returns:
        float32 (H, W, 3). Not normalised: a length near zero marks a texel without a direction.
        A two-channel map always yields unit vectors, x and y scaled back where they are too long.

    Raises:
        InpaintError: `unsupported_format` for too few channels.
    """
    check_pixels(pixels)
    need = 2 if encoding.two_channel else 3
    if pixels.shape[2] < need:
        raise InpaintError(
            "unsupported_format",
            f"The normal map has {pixels.shape[2]} channel(s) where {need} are needed.",
            "Use an RGB or RGBA map, or declare a two-channel map as such.",
        )
    stored = to_float(pixels[..., :need]) * np.float32(2) - np.float32(1)
    if encoding.two_channel:
        vectors = np.empty((*stored.shape[:2], 3), np.float32)
        vectors[..., :2] = stored
        squared = dot(stored, stored)
        vectors[..., 2] = np.sqrt(np.maximum(np.float32(0), np.float32(1) - squared))
        over = squared > 1
        if over.any():
            vectors[over] = unit(vectors[over])
    else:
        vectors = stored
    if encoding.y_axis == "down":
        vectors[..., 1] *= -1
    if encoding.space == "object" and encoding.up_axis == "z":
        vectors = np.stack([vectors[..., 0], vectors[..., 2], -vectors[..., 1]], axis=-1)
    return vectors


def decode(pixels: Pixels, encoding: Encoding) -> FloatArray:
    """The unit normals of a map: `decode_vectors`, normalised (see there)."""
    return unit(decode_vectors(pixels, encoding))


def encode(normals: FloatArray, encoding: Encoding, dtype: DTypeLike) -> NDArray[Any]:
    """Unit normals as stored samples, three channels, the inverse of `decode`.

    Args:
        normals: float32 (..., 3), unit, internal frame.
        encoding: How to store them. For a two-channel map, z is stored as well.
        dtype: uint8, uint16, float16 or float32.

    Returns:
        (..., 3) samples of that type, each standing for a value in [0, 1].
    """
    vectors = normals
    if encoding.space == "object" and encoding.up_axis == "z":
        vectors = np.stack([vectors[..., 0], -vectors[..., 2], vectors[..., 1]], axis=-1)
    if encoding.y_axis == "down":
        vectors = vectors * _signs(encoding)
    return from_float(np.clip(vectors * np.float32(0.5) + np.float32(0.5), 0.0, 1.0), dtype)


def mirror(normals: FloatArray) -> FloatArray:
    """The map seen in a mirror: columns reversed and x negated. float32 (H, W, 3), internal frame."""
    return np.ascontiguousarray(normals[:, ::-1] * np.array([-1.0, 1.0, 1.0], np.float32))


def angular_error(first: FloatArray, second: FloatArray) -> FloatArray:
    """The angle between two fields of normals, in degrees.

    Args:
        first: float32 (..., 3), of any length above zero.
        second: As `first`.

    Returns:
        float32 (...), 0 to 180. Computed as atan2(|a x b|, a.b), which unlike the arc cosine keeps
        its precision at small angles (W. Kahan, "How Futile are Mindless Assessments of Roundoff").
    """
    a = np.asarray(first, np.float64)
    b = np.asarray(second, np.float64)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    cosine = np.einsum("...i,...i->...", a, b)
    angle: NDArray[Any] = np.degrees(np.arctan2(sine, cosine))
    return angle.astype(np.float32)


def has_direction(vectors: FloatArray) -> BoolArray:
    """Where decoded vectors (..., 3) are finite and long enough to have a direction."""
    squared = dot(vectors, vectors)
    return np.asarray((squared >= np.float32(ZERO_LENGTH**2)) & np.isfinite(squared))
