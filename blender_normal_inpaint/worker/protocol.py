"""What the client and the worker say to each other.

Messages are JSON objects, one a line, over the worker's stdin and stdout. Arrays travel as `.npy` files in
a folder that only this user can enter; a message carries the name of the folder, never of a file outside
it. Nothing is ever unpickled. Every message of a request carries the request's id, so that what belongs to
a cancelled request cannot be taken for the answer to the next.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..core.errors import InpaintError

#: Both sides must carry the same number; it changes whenever a message does.
VERSION = 4

#: No honest line comes near this; a longer one is garbage and is not collected any further.
MAX_LINE = 1 << 20

#: The arrays of a crop, all but the last of texels, and the types of pixels.
CROP_TYPES = {
    "normals": "<f4",
    "hole": "|b1",
    "valid": "|b1",
    "wide_normals": "<f4",
    "wide_hole": "|b1",
    "wide_valid": "|b1",
    "twin": "<f4",
    "wide_twin": "<f4",
    "wide_head": "<f8",
}
PIXEL_TYPES = ("|u1", "<u2", "<f2", "<f4")
MASK_TYPES = ("|b1",)

_FOLDER = re.compile(r"r[0-9]{1,12}", re.ASCII)
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class ProtocolError(Exception):
    """The other side said something that is not in the protocol."""


# To the worker ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fill:
    """Fill a crop. `arrays` gives the shape of each `<name>.npy` in `folder`; the answer is result.npy there.

    Names and `fields` are those of `Crop.arrays` and `Crop.fields`.
    """

    id: int
    folder: str
    arrays: dict[str, Any]
    fields: dict[str, Any]


@dataclass(frozen=True)
class WriteMap:
    """Write pixels.npy of `folder` to the image file `path`, as `core.files.write_map` would.

    `form` is the format's name, or "" to go by the path's ending.
    """

    id: int
    folder: str
    shape: tuple[int, ...]
    dtype: str
    path: str
    form: str


@dataclass(frozen=True)
class ReadMap:
    """Read the image file `path` into pixels.npy of `folder`.

    With the bits that it has, as `core.files.read_map` would, or as a mask, as `core.files.read_mask` would.
    """

    id: int
    folder: str
    path: str
    mask: bool


@dataclass(frozen=True)
class Cancel:
    """Stop the request with this id; unknown and finished ids are ignored."""

    id: int


# From the worker --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello:
    """The worker is ready. `notices` are sentences for the user."""

    protocol: int
    engine: str
    device: str
    model: str
    weights_sha256: str
    python: str
    pid: int
    handles_files: bool
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class StartFailed:
    """The worker cannot serve and exits; sent in place of Hello."""

    error: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far a request has come, 0..1."""

    id: int
    fraction: float
    text: str


@dataclass(frozen=True)
class Done:
    """A request succeeded. `device` is where the engine runs now: it may have moved to the CPU."""

    id: int
    device: str = ""
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failed:
    """A request failed; `error` is `InpaintError.to_dict()`, the worker's traceback in its detail."""

    id: int
    error: dict[str, Any] = field(default_factory=dict)


Work = Fill | WriteMap | ReadMap
Request = Work | Cancel
Answer = Hello | StartFailed | Progress | Done | Failed

_REQUESTS: dict[str, type[Any]] = {
    "fill": Fill,
    "write_map": WriteMap,
    "read_map": ReadMap,
    "cancel": Cancel,
}
_ANSWERS: dict[str, type[Any]] = {
    "hello": Hello,
    "start_failed": StartFailed,
    "progress": Progress,
    "done": Done,
    "failed": Failed,
}
_TYPE_NAMES = {kind: name for name, kind in (_REQUESTS | _ANSWERS).items()}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _numbers(value: Any) -> bool:
    """Whether it is the shape of a short list of numbers, (n,)."""
    return isinstance(value, list | tuple) and len(value) == 1 and _whole(value[0]) and 0 < value[0] < 1 << 16


def _shape(value: Any) -> bool:
    """Whether it is the shape of an array of pixels, (H, W) or (H, W, C)."""
    return (
        isinstance(value, list | tuple)
        and len(value) in (2, 3)
        and all(_whole(side) and 0 < side < 1 << 20 for side in value)
    )


# The annotation of a field, as written above, decides what its JSON value may be.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "int": _whole,
    "float": _number,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "dict[str, Any]": lambda value: isinstance(value, dict),
    "tuple[str, ...]": _texts,
    "tuple[int, ...]": _shape,
}


def encode(message: Request | Answer) -> bytes:
    """A message as one line of ASCII JSON, newline included."""
    body: dict[str, Any] = {"type": _TYPE_NAMES[type(message)]}
    body |= {entry.name: getattr(message, entry.name) for entry in fields(message)}
    return json.dumps(body, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_Message = TypeVar("_Message")


def _decode(line: bytes, kinds: Mapping[str, type[_Message]]) -> _Message:
    try:
        body = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not a line of JSON: {line[:200]!r}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"not a JSON object: {line[:200]!r}")
    kind = kinds.get(body.pop("type", None) or "") if isinstance(body.get("type"), str) else None
    if kind is None:
        raise ProtocolError(f"unknown type of message: {line[:200]!r}")
    known = {entry.name: str(entry.type) for entry in fields(kind)}  # type: ignore[arg-type]
    for name, value in body.items():
        if name not in known:
            raise ProtocolError(f"{kind.__name__} has no field {name!r}")
        if not _CHECKS[known[name]](value):
            raise ProtocolError(f"{kind.__name__}.{name} cannot be {value!r}")
        if isinstance(value, list):
            body[name] = tuple(value)
    missing = known.keys() - body.keys()
    if missing:
        raise ProtocolError(f"{kind.__name__} lacks {', '.join(sorted(missing))}")
    return kind(**body)


def decode_request(line: bytes) -> Request:
    """One line from the client.

    Raises:
        ProtocolError: It is not exactly a request.
    """
    request: Request = _decode(line, _REQUESTS)
    if not isinstance(request, Cancel) and not _FOLDER.fullmatch(request.folder):
        raise ProtocolError(f"not the name of a job folder: {request.folder!r}")
    if isinstance(request, Fill):
        for name, shape in request.arrays.items():
            fits = _numbers(shape) if name == "wide_head" else _shape(shape)
            if name not in CROP_TYPES or not fits:
                raise ProtocolError(f"no array of a crop: {name!r} of {shape!r}")
    if isinstance(request, WriteMap) and request.dtype not in PIXEL_TYPES:
        raise ProtocolError(f"no type of pixels: {request.dtype!r}")
    return request


def decode_answer(line: bytes) -> Answer:
    """One line from the worker.

    Raises:
        ProtocolError: It is not exactly an answer.
    """
    if b'"protocol"' in line:
        _check_version(line)
    answer: Answer = _decode(line, _ANSWERS)
    return answer


def _check_version(line: bytes) -> None:
    """A hello of another version may have other fields: name the version before judging the rest."""
    try:
        body = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(body, dict) and body.get("type") == "hello" and body.get("protocol") != VERSION:
        raise ProtocolError(f"the worker speaks version {body.get('protocol')!r}, this side {VERSION}")


# Arrays -----------------------------------------------------------------------------------------------


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `.npy`, complete or not at all: beside its target, then renamed into place.

    Raises:
        OSError: With its errno. (`numpy.save` hides the errno of a full disk.)
    """
    array = np.ascontiguousarray(array)
    if array.dtype.hasobject:
        raise ValueError("arrays of objects do not travel")
    beside = path.with_name(path.name + ".part")
    with beside.open("wb", buffering=0) as stream:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(_Whole(stream), header)
        _Whole(stream).write(array.data.cast("B") if array.size else b"")
    beside.replace(path)


class _Whole:
    """A raw stream whose `write` writes everything: a raw one may stop early when the disk fills up."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        written = 0
        while written < len(view):
            # 64 MiB a call: some systems refuse more than 2 GiB at once.
            count = self._stream.write(view[written : written + (1 << 26)])
            if not count:
                raise OSError(errno.ENOSPC, "no byte more could be written")
            written += count
        return written


def read_array(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Read a `.npy` that must hold exactly this shape and type.

    Nothing is allocated before the header has been checked, so a damaged file cannot ask for memory.

    Raises:
        ValueError: The file is missing, cut short, too long, or holds another array.
    """
    return _read(path, lambda found, kind: found == shape and kind == np.dtype(dtype))


def read_pixels(path: Path, *, mask: bool) -> NDArray[Any]:
    """Read a `.npy` of an image whose size is not known: a mask, bool (H, W), or else pixels, (H, W, C).

    Raises:
        ValueError: As `read_array`.
    """
    allowed = [np.dtype(dtype) for dtype in (MASK_TYPES if mask else PIXEL_TYPES)]
    dimensions = 2 if mask else 3
    return _read(path, lambda found, kind: _shape(found) and len(found) == dimensions and kind in allowed)


def _read(path: Path, fits: Callable[[tuple[int, ...], np.dtype[Any]], bool]) -> NDArray[Any]:
    try:
        with path.open("rb") as stream:
            shape, dtype = _read_header(stream, path, fits)
            left = path.stat().st_size - stream.tell()
            wanted = math.prod(shape) * dtype.itemsize
            if left < wanted:
                raise ValueError(f"{path.name} is cut short: {left} of {wanted} bytes")
            array = np.empty(shape, dtype)
            view = array.data.cast("B") if array.size else memoryview(b"")
            got = 0
            while got < len(view):
                count = stream.readinto(view[got:])
                if not count:
                    raise ValueError(f"{path.name} is cut short: {got} of {len(view)} bytes")
                got += count
            if stream.read(1):
                raise ValueError(f"{path.name} is longer than its array")
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error
    return array


def _read_header(
    stream: BinaryIO, path: Path, fits: Callable[[tuple[int, ...], np.dtype[Any]], bool]
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        found, fortran, kind = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        raise ValueError(f"{path.name} is not an array file: {error}") from error
    if fortran or not fits(tuple(found), kind):
        raise ValueError(f"{path.name} holds {found} of {kind}, which was not asked for")
    return tuple(found), kind


def storage_error(error: OSError, what: str, folder: Path) -> InpaintError:
    """A failed write in the job folder as one clear sentence: `disk_full` or `not_writable`."""
    if error.errno in _FULL:
        return InpaintError(
            "disk_full",
            f"The disk of the temporary folder is full: {what} could not be written.",
            "Free some space there, or set another temporary folder, and try again.",
            f"{folder}: {error}",
        )
    return InpaintError(
        "not_writable",
        f"{what.capitalize()} could not be written in the temporary folder.",
        "Check that the temporary folder exists and that you may write in it.",
        f"{folder}: {error}",
    )
