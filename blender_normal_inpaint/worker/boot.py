"""The file that the worker's Python is started with, by path.

It takes the real stdin and stdout away for the protocol, so that a library that prints cannot corrupt it;
extends its own module path with the folders it was given; and mounts the package under a fixed name without
running the package's `__init__`, which belongs to Blender. Only then is anything of the project imported.

It parses in Pythons far older than the project needs, so that a person who names one of those is told so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import traceback
from typing import IO

#: The package's name in the worker, whatever it is called in Blender.
PACKAGE = "normal_inpaint_mounted"
NEEDS = (3, 11)


class CannotStart(Exception):  # noqa: N818 - the client turns it into an error
    """What keeps the worker from starting, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def take_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Private copies of stdin and stdout; what is printed from now on goes to stderr."""
    sys.stdout.flush()
    requests = os.dup(0)
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(requests, os.O_BINARY)
        msvcrt.setmode(answers, os.O_BINARY)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def extend_path(folders: list[str]) -> list[str]:
    """Put folders before this Python's own site-packages; return a sentence for each one left out.

    Before, because they hold the versions that the extension was tested with; not first, because nothing
    in them may stand in for the standard library.
    """
    # Python put this file's folder first: its neighbours are no top-level modules.
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib costs start-up time
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # noqa: PTH100
    version = sys.version.split()[0]
    left_out = []
    good = []
    for folder in folders:
        made_for = re.search(r"[\\/]python(\d)\.(\d+)[\\/](?:site|dist)-packages", folder)
        if not os.path.isabs(folder) or not os.path.isdir(folder):  # noqa: PTH112, PTH117
            left_out.append(f"The module folder {folder} does not exist.")
        elif made_for and (int(made_for.group(1)), int(made_for.group(2))) != sys.version_info[:2]:
            left_out.append(f"The module folder {folder} is for another Python than {version}.")
        elif folder not in sys.path:
            good.append(folder)
    at = len(sys.path)
    for index, entry in enumerate(sys.path):
        if os.path.basename(entry) in ("site-packages", "dist-packages"):  # noqa: PTH119
            at = index
            break
    sys.path[at:at] = good
    return left_out


def mount(package_dir: str) -> None:
    """Make the package's modules importable as `PACKAGE.core`, `PACKAGE.worker` and so on."""
    if not os.path.isfile(os.path.join(package_dir, "core", "errors.py")):  # noqa: PTH113, PTH118
        raise CannotStart(f"The package folder {package_dir} is incomplete.", "Reinstall the extension.")
    spec = importlib.machinery.ModuleSpec(PACKAGE, None, origin=package_dir, is_package=True)
    spec.submodule_search_locations = [package_dir]
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line that the client writes."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--package-dir", required=True)
    parser.add_argument("--job-dir", required=True)
    parser.add_argument("--path", action="append", default=[])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device")
    parser.add_argument("--weights")
    parser.add_argument("--threads", type=int)
    return parser.parse_args(arguments)


def explain(error: BaseException) -> dict[str, str]:
    """An error as the fields of an `InpaintError`, before that class can be imported."""
    version = sys.version.split()[0]
    if isinstance(error, CannotStart):
        message, hint = str(error), error.hint
    elif isinstance(error, ImportError) and (error.name or "").split(".")[0] == "numpy":
        message = f"numpy cannot be imported by {sys.executable} (Python {version})."
        hint = "Install numpy for that Python, or clear the Python chosen in the preferences."
    else:
        message = f"The worker could not start on {sys.executable} (Python {version}): {error}."
        hint = "Reinstall the extension, or clear the Python chosen in the preferences."
    detail = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return {"code": "worker_start", "message": message, "hint": hint, "detail": detail}


def main(arguments: list[str]) -> int:
    """Start the server; the exit status is 0 once the client has closed its end."""
    requests, answers = take_streams()
    try:
        # Ends whatever a launcher or a start-up file has printed without a newline.
        answers.write(b"\n")
        answers.flush()
        if sys.version_info < NEEDS:
            raise CannotStart(
                f"{sys.executable} is Python {sys.version.split()[0]}, which is too old.",
                "Choose Python {}.{} or newer in the preferences.".format(*NEEDS),
            )
        # Threads of NumPy's products of matrices, which are small, would take the network's cores from it.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        options = parse(arguments)
        notices = extend_path(options.path)
        mount(options.package_dir)
        server = importlib.import_module(PACKAGE + ".worker.server")
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        line = json.dumps({"type": "start_failed", "error": explain(error)})
        answers.write(line.encode("ascii") + b"\n")
        answers.flush()
        return 1
    return int(server.serve(requests, answers, options, notices))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
