"""The numbers of tiles, in UV maps and in paths: UDIM, as Mari, Blender and others have it.

1001 is the tile of u and v from 0 to 1; there are ten in a row, and the next row begins at 1011.
"""

from __future__ import annotations

import re
from pathlib import Path

#: Stands for a tile's number in a path; so does the other, for its column and row.
TOKEN, _UVTILE = "<UDIM>", "<UVTILE>"
_FIRST, _ACROSS = 1001, 10
#: A tile's number, or what stands for it, at the end of a name.
_NUMBERED = re.compile(r"[._]?(?:(1\d{3})|<UDIM>|<UVTILE>|u(\d+)_v(\d+))(?=(?:\.[^.]*)?$)")


def corner(number: int) -> tuple[int, int]:
    """Where in a UV map a tile begins: u and v."""
    v, u = divmod(number - _FIRST, _ACROSS)
    return u, v


def number_at(u: int, v: int) -> int | None:
    """The number of the tile that begins there in a UV map; None where there is none."""
    return _FIRST + u + _ACROSS * v if 0 <= u < _ACROSS and v >= 0 else None


def is_pattern(path: Path) -> bool:
    """Whether a path stands for all tiles."""
    return TOKEN in path.name or _UVTILE in path.name


def in_path(path: Path, number: int) -> Path:
    """The file of a tile, by a path that stands for all."""
    u, v = corner(number)
    return path.with_name(path.name.replace(TOKEN, str(number)).replace(_UVTILE, f"u{u + 1}_v{v + 1}"))


def pattern(path: Path) -> Path:
    """A path that stands for all tiles: as it is, or made of that of one tile, or of an image."""
    return path if is_pattern(path) else path.with_name(f"{plain(path.stem)}.{TOKEN}{path.suffix}")


def plain(name: str) -> str:
    """A name without a tile's number."""
    return _NUMBERED.sub("", name) or name


def number_of(name: str) -> int | None:
    """The number of the tile that a file is named for, if it is."""
    found = _NUMBERED.search(name)
    if found is None or not any(found.groups()):
        return None
    if found[1]:
        return int(found[1])
    return number_at(int(found[2]) - 1, int(found[3]) - 1)


def tiles(path: Path) -> dict[int, Path]:
    """The files that there are of a path that stands for all tiles, by their numbers, in order."""
    parts = (re.escape(part) for part in re.split(f"{TOKEN}|{_UVTILE}", path.name))
    named = re.compile(r"(?:1\d{3}|u\d+_v\d+)".join(parts))
    found: dict[int, Path] = {}
    if path.parent.is_dir():
        for each in path.parent.iterdir():
            number = number_of(each.stem + ".x") if named.fullmatch(each.name) else None
            if number is not None and each.is_file() and in_path(path, number) == each:
                found[number] = each
    return dict(sorted(found.items()))
