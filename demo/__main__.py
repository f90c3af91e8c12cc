"""`python -m demo`: the whole product on a head, in real Blender, with its own set-up.

Needs Python 3.11 or 3.13 and nothing else. Makes its environments in `.environments/`, builds the
extension, and leaves `demo_output/`: demo.png (look at this one), head.blend, the repaired 16-bit map, and
what they were made from.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools import environments
from tools.environments import ROOT, Environment, SetupError, say

HERE = Path(__file__).resolve().parent

#: The Blender that the demonstration runs in, by Python.
BLENDER = {version: releases[-1] for version, releases in environments.BLENDERS.items()}

#: Minutes after which a step is taken for hung; a slow machine needs a few.
TIMEOUT = 30


class StepError(Exception):
    """A step of the demonstration failed."""


def run_step(title: str, command: list[str | Path], **extra: str) -> None:
    """Runs one step in a process of its own, its output passed through.

    Raises:
        StepError: It failed or hung.
    """
    say(title)
    environment = environments.clean_environment(**extra)
    try:
        done = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=environment, timeout=TIMEOUT * 60
        )
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{title} took longer than {TIMEOUT} minutes and was stopped.") from error
    if done.returncode != 0:
        raise StepError(f"{title} failed with exit status {done.returncode}; see the lines above.")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--size", type=int, default=1024, help="texels a side of the normal map (default 1024)"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "demo_output", help="folder for the files (default demo_output)"
    )
    parser.add_argument("--extension", type=Path, help="use this zip in place of building one")
    options = parser.parse_args()
    if not 64 <= options.size <= 8192:
        parser.error("--size must be between 64 and 8192")
    started = time.monotonic()
    try:
        version, python = environments.main_python()
        blender = environments.ensure(
            next(
                found
                for found in environments.blender_environments({version: python})
                if found.name == f"blender-{BLENDER[version]}"
            )
        )
        plain = environments.ensure(
            Environment("picture", python, version, ("numpy>=1.24", "openimageio>=3.2.2", "pillow>=10.1"))
        )
        with tempfile.TemporaryDirectory(prefix="normal_inpaint_demo_") as name:
            scratch = Path(name)
            extension = options.extension
            if extension is None:
                run_step(
                    "Building the extension ...", [plain, "build_addon.py", "--output", scratch / "dist"]
                )
                (extension,) = (scratch / "dist").glob("*.zip")
            made = scratch / "output"
            made.mkdir()
            run_step(
                f"In Blender {BLENDER[version]}: install, bake, damage, repair, render ...",
                [
                    blender, "-u", HERE / "scene.py",
                    "--extension", extension.resolve(),
                    "--head", HERE / "head.npz",
                    "--output", made,
                    "--size", str(options.size),
                ],
                BLENDER_USER_RESOURCES=str(scratch / "blender"),
            )  # fmt: skip
            run_step("Measuring and drawing ...", [plain, "-m", "demo.picture", made])
            options.output.mkdir(parents=True, exist_ok=True)
            for file in made.iterdir():
                shutil.move(file, options.output / file.name)
    except (SetupError, StepError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; the next run goes on from here.", file=sys.stderr)
        return 130
    say(f"Done after {time.monotonic() - started:.0f} s. Look at {options.output / 'demo.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
