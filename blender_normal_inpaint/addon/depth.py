"""What an image file holds, read from its first bytes: Blender does not tell 16 bits from float.

Pure Python, without Blender. Nothing here decodes pixels.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

#: No header that matters is longer.
_HEADER = 1 << 16


@dataclass(frozen=True)
class FileFormat:
    """A file's type, sample type and channel count.

    `kind` is "png", "tiff", "exr", "jpeg", "tga", "bmp", "webp", "hdr" or "" where unknown; `dtype` is the
    numpy name of "uint8", "uint16", "float16" or "float32"; `channels` is 1 to 4.
    """

    kind: str
    dtype: str
    channels: int

    def to_json(self) -> str:
        """The format as one line of text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> FileFormat | None:
        """What `to_json` wrote; None for anything else."""
        try:
            fields = json.loads(text)
            found = FileFormat(str(fields["kind"]), str(fields["dtype"]), int(fields["channels"]))
        except (ValueError, KeyError, TypeError):
            return None
        known = found.dtype in ("uint8", "uint16", "float16", "float32") and 1 <= found.channels <= 4
        return found if known else None


def sniff_file(path: Path) -> FileFormat | None:
    """The format of a file; None if it cannot be read or is of no known kind."""
    try:
        with path.open("rb") as stream:
            return sniff(stream)
    except OSError:
        return None


def sniff_bytes(data: bytes) -> FileFormat | None:
    """The format of a file's contents; None if they are of no known kind."""
    return sniff(io.BytesIO(data))


def sniff(stream: BinaryIO) -> FileFormat | None:
    """The format of an open file; None if it is of no known kind or its header is damaged."""
    start = stream.read(32)
    try:
        if start.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(start)
        if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(stream, start)
        if start.startswith(b"\x76\x2f\x31\x01"):
            return _exr(start + stream.read(_HEADER))
    except (struct.error, ValueError, IndexError):
        return None
    if start.startswith(b"\xff\xd8\xff"):
        return FileFormat("jpeg", "uint8", 3)
    if start.startswith(b"BM"):
        return FileFormat("bmp", "uint8", 3)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return FileFormat("webp", "uint8", 3)
    if start.startswith((b"#?RADIANCE", b"#?RGBE")):
        return FileFormat("hdr", "float32", 3)
    return None


def _png(start: bytes) -> FileFormat:
    # PNG specification, 11.2.2: bit depth and colour type follow the size in IHDR.
    bits, colour = start[24], start[25]
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour] if colour in (0, 2, 3, 4, 6) else 4
    return FileFormat("png", "uint16" if bits == 16 else "uint8", channels)


def _tiff(stream: BinaryIO, start: bytes) -> FileFormat:
    # TIFF 6.0, section 2, and the BigTIFF variant: entries of tag, type, count, value or offset.
    order = "<" if start[:1] == b"I" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    offset_type, entry_size, inline = ("Q", 20, 8) if big else ("I", 12, 4)
    (where,) = struct.unpack_from(order + offset_type, start, 8 if big else 4)
    stream.seek(where)
    count_type = "Q" if big else "H"
    (count,) = struct.unpack(order + count_type, stream.read(struct.calcsize(count_type)))
    entries = stream.read(min(count, 4096) * entry_size)
    values: dict[int, int] = {}
    for index in range(len(entries) // entry_size):
        at = index * entry_size
        tag, kind = struct.unpack_from(order + "HH", entries, at)
        (number,) = struct.unpack_from(order + offset_type, entries, at + 4)
        if tag not in (258, 277, 339) or kind != 3:
            continue
        value_at = at + 4 + struct.calcsize(offset_type)
        if number * 2 <= inline:
            (values[tag],) = struct.unpack_from(order + "H", entries, value_at)
        else:
            # Every sample has the same type in the files that are read here: the first one tells.
            (elsewhere,) = struct.unpack_from(order + offset_type, entries, value_at)
            stream.seek(elsewhere)
            (values[tag],) = struct.unpack(order + "H", stream.read(2))
    bits, is_float = values.get(258, 8), values.get(339, 1) == 3
    if is_float:
        dtype = "float16" if bits == 16 else "float32"
    else:
        dtype = {8: "uint8", 16: "uint16"}.get(bits, "float32" if bits > 16 else "uint8")
    return FileFormat("tiff", dtype, min(max(values.get(277, 1), 1), 4))


def _exr(data: bytes) -> FileFormat:
    # OpenEXR file layout: magic, version, then attributes of name, type, size, value until an empty name.
    at = 8
    while data[at] != 0:
        name_end = data.index(b"\0", at)
        type_end = data.index(b"\0", name_end + 1)
        (size,) = struct.unpack_from("<i", data, type_end + 1)
        value = data[type_end + 5 : type_end + 5 + size]
        if data[at:name_end] == b"channels":
            return _exr_channels(value)
        at = type_end + 5 + size
    raise ValueError("no channels")


def _exr_channels(value: bytes) -> FileFormat:
    at, names, types = 0, [], []
    while value[at] != 0:
        end = value.index(b"\0", at)
        (kind,) = struct.unpack_from("<i", value, end + 1)
        names.append(value[at:end].decode("ascii", "replace").rpartition(".")[2].upper())
        types.append(kind)
        at = end + 17
    colours = [kind for name, kind in zip(names, types, strict=True) if name in ("R", "G", "B", "A")]
    half = all(kind == 1 for kind in colours or types)
    channels = len(colours) if 3 <= len(colours) <= 4 else min(max(len(names), 1), 4)
    return FileFormat("exr", "float16" if half else "float32", channels)
