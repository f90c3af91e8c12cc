"""The command line: repairs one normal map, or a folder of them, without Blender."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

# Read when NumPy is imported. See `worker.boot`.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from .core import files, pipeline, udim
from .core.basemesh import BaseMesh, Triangles
from .core.engine import BoolArray, Filler, Pixels
from .core.errors import InpaintError
from .core.fill import LocalFiller
from .core.meshfile import read_mesh
from .core.normals import Encoding

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130

_DESCRIPTION = """\
Repair the masked texels of a face's normal map (white in the mask = repair).

One map:   python -m blender_normal_inpaint face.png --mask face_mask.png -o repaired.png
A folder:  python -m blender_normal_inpaint maps --mask-suffix _mask -o repaired
UDIM:      python -m blender_normal_inpaint "face.<UDIM>.png" --mask "mask.<UDIM>.png" -o "new.<UDIM>.png"

In a folder, face.png pairs with face_mask.png (and with face_valid.png given --valid-suffix _valid);
masks may be of another image type than their map. A result keeps its map's file name, type and depth.
<UDIM> stands for the numbers of all tiles; tiles without a mask are copied.
"""


def _whole(low: int) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if value < low:
            raise ValueError
        return value

    parse.__name__ = f"whole number of at least {low}"
    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m blender_normal_inpaint",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "normal", type=Path, metavar="NORMAL", help="the normal map, a folder of them, or all tiles of one"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the result, or a folder"
    )
    masks = parser.add_argument_group("masks")
    masks.add_argument("--mask", type=Path, help="image: white where to repair")
    masks.add_argument("--valid", type=Path, help="image: white where there is skin")
    masks.add_argument("--mask-suffix", metavar="TEXT", help="folders: what a mask adds to its map's name")
    masks.add_argument("--valid-suffix", metavar="TEXT", help="folders: what a valid mask adds to it")
    masks.add_argument("--dilate", type=_whole(0), default=0, metavar="N", help="grow the mask by N texels")
    how = parser.add_argument_group("how the map stores its vectors")
    how.add_argument("--space", choices=("tangent", "object", "camera"), default="tangent")
    how.add_argument(
        "--y-axis",
        choices=("up", "down"),
        default="up",
        help="what more green means: up is OpenGL, down DirectX",
    )
    how.add_argument(
        "--up-axis", choices=("y", "z"), default="y", help="object space: the axis that points up"
    )
    how.add_argument(
        "--mesh",
        type=Path,
        metavar="FILE",
        help="the mesh that wears the map, OBJ, PLY or GLB: tells where skin is; in object space, its forms",
    )
    how.add_argument("--two-channel", action="store_true", help="x and y alone count (BC5); z is rebuilt")
    run = parser.add_argument_group("network")
    run.add_argument("--engine", choices=("auto", "onnx", "torch"), default="auto")
    run.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps, xpu, directml, coreml")
    run.add_argument("--weights", type=Path, metavar="FILE", help="the card (.json) of another network")
    run.add_argument("--threads", type=_whole(1), metavar="N", help="processor threads for the network")
    run.add_argument("--seed", type=_whole(0), default=0, metavar="N", help="another number, other pores")
    run.add_argument("--no-detail", action="store_true", help="only the shape, without pores and creases")
    run.add_argument("--no-symmetry", action="store_true", help="nothing comes over from the other half")
    output = parser.add_argument_group("output")
    output.add_argument("--skip-existing", action="store_true", help="leave results that are already there")
    output.add_argument("--json", action="store_true", help="one JSON object on standard output")
    output.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


@dataclass(frozen=True)
class _Task:
    """One map to repair."""

    normal: Path
    #: None for a tile that is copied, for there is nothing to repair in it.
    mask: Path | None
    valid: Path | None
    output: Path
    #: The number of the tile that it is, if it is one.
    tile: int | None = None


class _Mesh:
    """The mesh that wears the maps; what of it lies in a tile is worked out once."""

    def __init__(self, triangles: Triangles) -> None:
        self.triangles = triangles
        self._base = functools.cache(triangles.base)
        self._spans_tiles = len(triangles.tiles()) > 1

    def of(self, task: _Task) -> BaseMesh | None:
        """What of it wears a map. In a folder a number in a name is a tile's if the mesh has several."""
        return self._base(task.tile or (udim.number_of(task.normal.name) if self._spans_tiles else None))


class _Bar:
    """A progress bar on standard error, for people: silent where that is no terminal."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total = max(1, total)
        self._done = 0
        self._name = ""
        self._live = sys.stderr.isatty() and not quiet
        self._plain = total > 1 and not quiet and not self._live
        self._last = 0.0

    def start(self, name: str) -> None:
        """A map begins."""
        self._name = name
        self.show(0.0, "", force=True)

    def show(self, fraction: float, text: str, force: bool = False) -> None:
        """How far the current map is."""
        now = time.monotonic()
        if not self._live or (not force and now - self._last < 0.1):
            return
        self._last = now
        share = (self._done + min(max(fraction, 0.0), 1.0)) / self._total
        filled = round(30 * share)
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {share:4.0%} {self._name} {text}"
        sys.stderr.write("\r" + line[:100].ljust(100))
        sys.stderr.flush()

    def end(self, word: str) -> None:
        """The current map is done, well or not."""
        self._done += 1
        if self._plain:
            sys.stderr.write(f"[{self._done}/{self._total}] {self._name}: {word}\n")
            sys.stderr.flush()
        self.show(0.0, "", force=True)

    def clear(self) -> None:
        """Make room for other output."""
        if self._live:
            sys.stderr.write("\r" + " " * 100 + "\r")
            sys.stderr.flush()


def _partner(folder: Path, stem: str, suffix: str, extension: str) -> Path | None:
    """The mask of a map: the same ending as the map's first, then any image."""
    for ending in (extension, *files.READABLE):
        path = folder / f"{stem}{suffix}{ending}"
        if path.is_file():
            return path
    return None


def _folder_tasks(arguments: argparse.Namespace) -> tuple[list[_Task], list[tuple[Path, InpaintError]]]:
    """The maps of a folder with their masks, in the order of their names, and those that cannot be done."""
    folder: Path = arguments.normal
    suffixes = [suffix for suffix in (arguments.mask_suffix, arguments.valid_suffix) if suffix]
    tasks: list[_Task] = []
    failures: list[tuple[Path, InpaintError]] = []
    taken: set[str] = set()
    for path in sorted(folder.iterdir()):
        extension = path.suffix.lower()
        if extension not in files.READABLE or not path.is_file() or path.name.startswith("."):
            continue
        if any(path.stem.endswith(suffix) for suffix in suffixes):
            continue
        mask = _partner(folder, path.stem, arguments.mask_suffix, path.suffix)
        if mask is None:
            failures.append(
                (
                    path,
                    InpaintError(
                        "no_mask",
                        f"{path.name} has no mask: no {path.stem}{arguments.mask_suffix} lies beside it.",
                        "Add the mask, or move the map to another folder.",
                    ),
                )
            )
            continue
        valid = None
        if arguments.valid_suffix:
            valid = _partner(folder, path.stem, arguments.valid_suffix, path.suffix)
        name = _result_name(path)
        if name.lower() in taken:
            failures.append(
                (
                    path,
                    InpaintError(
                        "not_writable", f"Two maps would both be written to {name}.", "Rename one of them."
                    ),
                )
            )
            continue
        taken.add(name.lower())
        tasks.append(_Task(path, mask, valid, arguments.output / name))
    return tasks, failures


def _result_name(path: Path) -> str:
    """A result's name in a folder. A JPEG would alter all texels of its result, so that becomes a PNG."""
    return path.stem + ".png" if path.suffix.lower() in (".jpg", ".jpeg") else path.name


def _tile_tasks(arguments: argparse.Namespace, output: Path) -> list[_Task]:
    """The tiles of a map, those with an empty mask or none to be copied.

    Raises:
        InpaintError: There is no tile, or nothing to repair in any.
    """
    normals = udim.tiles(arguments.normal)
    if not normals:
        raise InpaintError("unreadable", f"There are no tiles {arguments.normal}.")
    masks = {number: path for number, path in udim.tiles(arguments.mask).items() if _masks_something(path)}
    if not masks.keys() & normals.keys():
        raise InpaintError("mask_empty", f"No tile of {arguments.normal.name} has a mask with white in it.")
    valid = udim.tiles(arguments.valid) if arguments.valid else {}
    return [
        _Task(path, masks.get(number), valid.get(number), udim.in_path(output, number), number)
        for number, path in normals.items()
    ]


def _masks_something(path: Path) -> bool:
    try:
        return bool(files.read_mask(path).any())
    except InpaintError:
        return True  # what is wrong is said when its tile's turn comes


def _copy(task: _Task) -> dict[str, Any]:
    """Write a tile that stays as it is: the same file, unless it is to be of another kind."""
    if task.normal.suffix.lower() == task.output.suffix.lower():
        files.put(task.output, task.normal.read_bytes())
    else:
        files.write_map(task.output, files.read_map(task.normal).pixels)
    return {"normal": str(task.normal), "output": str(task.output), "status": "copied", "notices": []}


def _repair(
    task: _Task,
    filler: Filler,
    encoding: Encoding,
    options: pipeline.Options,
    mesh: _Mesh | None,
    bar: _Bar,
    holes: dict[int, BoolArray],
) -> dict[str, Any]:
    """Repair one map and say what was done; what was repaired of a tile on a mesh is added to the holes."""
    started = time.perf_counter()
    if task.mask is None:
        return _copy(task)
    base = mesh.of(task) if mesh is not None else None
    source = files.read_map(task.normal)
    files.check_target(task.output, source)
    result = pipeline.inpaint(
        source.pixels,
        files.read_mask(task.mask),
        filler,
        encoding=encoding,
        valid=files.read_mask(task.valid) if task.valid else None,
        options=options,
        progress=bar.show,
        overwrite=True,  # the file keeps the source
        meshes=[base] if base is not None else [],
    )
    files.write_map(task.output, result.pixels, source)
    if task.tile is not None and mesh is not None:
        holes[task.tile] = result.repaired
    height, width = source.pixels.shape[:2]
    return {
        "normal": str(task.normal),
        "output": str(task.output),
        "status": "done",
        "width": width,
        "height": height,
        "channels": int(source.pixels.shape[2]),
        "type": str(source.pixels.dtype),
        "hole_texels": result.hole_texels,
        "regions": result.regions,
        "notices": result.notices,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _meet(tasks: Sequence[_Task], holes: dict[int, BoolArray], mesh: _Mesh, encoding: Encoding) -> None:
    """Make both sides of seams meet in the repaired tiles of a map, and between its tiles."""
    tiles = {task.tile: task for task in tasks if task.tile is not None}
    kinds: dict[int, files.MapFile] = {}

    def read(number: int) -> Pixels:
        found = files.read_map(tiles[number].output)
        kinds[number] = replace(found, pixels=found.pixels[:0].copy())
        return found.pixels

    others = tiles.keys() - holes.keys()
    for number, pixels in pipeline.meet_tiles([mesh.triangles], holes, others, read, encoding):
        files.write_map(tiles[number].output, pixels, kinds[number])


def _explain(error: BaseException) -> InpaintError:
    """Any failure as an error with a sentence and a hint."""
    if isinstance(error, InpaintError):
        return error
    detail = "".join(traceback.format_exception(error))
    if isinstance(error, MemoryError):
        return InpaintError("out_of_memory", detail=detail)
    return InpaintError("internal", f"Something unexpected went wrong: {error}.", detail=detail)


def _print_error(error: InpaintError, prefix: str, debug: bool) -> None:
    sys.stderr.write(f"{prefix}{error.message}\n    {error.hint}\n")
    if error.detail and (debug or error.code == "internal"):
        sys.stderr.write(error.detail.rstrip() + "\n")


def _create(arguments: argparse.Namespace) -> tuple[Filler, list[str], dict[str, str]]:
    """The network; only now is its library imported."""
    from .worker.engines import create_engine

    engine, notices = create_engine(
        arguments.engine, device=arguments.device, card_path=arguments.weights, threads=arguments.threads
    )
    about = {
        "name": engine.name,
        "device": engine.device,
        "model": f"{engine.card.name} {engine.card.version}",
    }
    return LocalFiller(engine), notices, about


def _check_usage(parser: argparse.ArgumentParser, arguments: argparse.Namespace, folder: bool) -> None:
    def refuse(text: str) -> NoReturn:
        parser.error(text)

    if arguments.mesh and arguments.space == "camera":
        refuse("--mesh is for maps that are laid out by a UV map, not for --space camera")
    if folder:
        if not arguments.mask_suffix:
            refuse("a folder needs --mask-suffix, for instance --mask-suffix _mask")
        if arguments.mask or arguments.valid:
            refuse("a folder takes --mask-suffix and --valid-suffix, not --mask or --valid")
    else:
        if not arguments.mask:
            refuse("a map needs --mask")
        if arguments.mask_suffix or arguments.valid_suffix:
            refuse("--mask-suffix and --valid-suffix are for folders")
        tiled = udim.is_pattern(arguments.normal)
        for name in ("mask", "valid", "output"):
            path: Path | None = getattr(arguments, name)
            if path is not None and not path.is_dir() and udim.is_pattern(path) != tiled:
                refuse(f"the map and --{name} have to name either one file each or all tiles (<UDIM>)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 if everything was done, 1 if something failed."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    folder = arguments.normal.is_dir()
    _check_usage(parser, arguments, folder)
    try:
        return _run(arguments, folder)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped. Results that were already written are whole.\n")
        return _EXIT_INTERRUPTED


def _run(arguments: argparse.Namespace, folder: bool) -> int:
    report: dict[str, Any] = {"engine": None, "results": [], "failed": 0, "skipped": 0}
    failures: list[tuple[Path, InpaintError]] = []
    tasks: list[_Task] = []
    started = time.perf_counter()
    bar = _Bar(0, quiet=True)
    tiled = not folder and udim.is_pattern(arguments.normal)
    several = folder or tiled
    try:
        if folder:
            if arguments.output.resolve() == arguments.normal.resolve():
                raise InpaintError(
                    "not_writable",
                    "The results would replace the maps they come from.",
                    "Choose another folder for the results.",
                )
            tasks, failures = _folder_tasks(arguments)
            if not tasks and not failures:
                raise InpaintError(
                    "unreadable",
                    f"There are no normal maps in {arguments.normal}.",
                    "Name a folder that holds maps and their masks.",
                )
            try:
                arguments.output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InpaintError(
                    "not_writable", f"The folder {arguments.output} could not be made.", detail=str(error)
                ) from error
        else:
            output = arguments.output
            if output.is_dir():
                output = output / (_result_name(arguments.normal) if tiled else arguments.normal.name)
            if tiled:
                tasks = _tile_tasks(arguments, output)
            else:
                tasks = [_Task(arguments.normal, arguments.mask, arguments.valid, output)]
        every = list(tasks)
        if arguments.skip_existing:
            for task in [task for task in tasks if task.output.is_file()]:
                tasks.remove(task)
                report["skipped"] += 1
                report["results"].append(
                    {"normal": str(task.normal), "output": str(task.output), "status": "skipped"}
                )
        filler: Filler | None = None
        if tasks:
            filler, notices, about = _create(arguments)
            report["engine"] = about
            for notice in notices:
                sys.stderr.write(f"Note: {notice}\n")
        encoding = Encoding(arguments.space, arguments.y_axis, arguments.up_axis, arguments.two_channel)
        options = pipeline.Options(
            seed=arguments.seed,
            dilate=arguments.dilate,
            detail=not arguments.no_detail,
            symmetry=not arguments.no_symmetry,
            meet=not tiled,
        )
        mesh = _Mesh(read_mesh(arguments.mesh)) if arguments.mesh and tasks else None
        holes: dict[int, BoolArray] = {}
        bar = _Bar(len(tasks), quiet=False)
        for task in tasks:
            assert filler is not None
            bar.start(task.normal.name)
            try:
                done = _repair(task, filler, encoding, options, mesh, bar, holes)
            except Exception as error:
                failures.append((task.normal, _explain(error)))
                every.remove(task)
                bar.end("failed")
                continue
            bar.end("done")
            report["results"].append(done)
            bar.clear()
            if not arguments.json and not several:
                _tell(done, report["engine"])
            for notice in done["notices"]:
                sys.stderr.write(f"Note: {task.normal.name}: {notice}\n")
        if mesh is not None:
            _meet(every, holes, mesh, encoding)
    except Exception as error:
        failures.append((arguments.normal, _explain(error)))
    bar.clear()
    for path, failure in failures:
        report["results"].append({"normal": str(path), "status": "failed", "error": failure.to_dict()})
        _print_error(failure, f"{path.name}: " if several else "Error: ", arguments.debug)
    report["failed"] = len(failures)
    report["done"] = sum(entry["status"] == "done" for entry in report["results"])
    report["copied"] = sum(entry["status"] == "copied" for entry in report["results"])
    report["seconds"] = round(time.perf_counter() - started, 3)
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    elif several:
        copied = f"{report['copied']} copied, " if tiled else ""
        sys.stdout.write(
            f"{report['done']} repaired, {copied}{report['skipped']} skipped, {report['failed']} failed "
            f"in {report['seconds']:.1f} s\n"
        )
    return _EXIT_FAILED if failures else 0


def _tell(done: dict[str, Any], about: dict[str, str]) -> None:
    sys.stdout.write(
        f"{done['output']}: {done['hole_texels']} of {done['width'] * done['height']} texels repaired in "
        f"{done['seconds']:.2f} s ({about['name']}, {about['device']})\n"
    )


if __name__ == "__main__":
    sys.exit(main())
