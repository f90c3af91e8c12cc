"""`python -m benchmarks`: speed and memory of both engines inside Blender, beside OpenCV in the same run.

Needs Python 3.11 or 3.13 and nothing else, as the demonstration does. Every figure is the median of a few
runs of the operator, from the click to the new image. Prints a table in Markdown, writes the runs as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools import environments
from tools.environments import ROOT, SetupError, say

HERE = Path(__file__).resolve().parent
TIMEOUT = 3600


def answer(command: list[str | Path], **extra: str) -> dict[str, Any]:
    """Runs a part of the benchmark and reads the JSON object in its last line.

    Raises:
        SetupError: It failed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environments.clean_environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT,
    )
    lines = done.stdout.strip().splitlines()
    for line in reversed(lines):
        if done.returncode == 0 and line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise SetupError(f"A part of the benchmark failed ({done.returncode}):\n" + "\n".join(lines[-15:]))


def table(results: dict[str, Any], sides: list[int]) -> str:
    """The medians as a Markdown table, each with its ratio to OpenCV's."""
    reference = {side: statistics.median(results["opencv"]["seconds"][str(side)]) for side in sides}
    head = ["", "cold start", *(f"{side} x {side}" for side in sides), "peak, Blender", "peak, worker"]
    rows = [head, ["---"] * len(head)]
    for kind in ("onnx", "torch"):
        found = results[kind]
        medians = [statistics.median(found["seconds"][str(side)]) for side in sides]
        cells = [
            f"{value:.2f} s ({value / reference[side]:.1f}x)"
            for value, side in zip(medians, sides, strict=True)
        ]
        rows.append(
            [
                found["engine"],
                f"{statistics.median(found['start']):.2f} s",
                *cells,
                megabytes(found["peak_mb"]),
                megabytes(found["worker_peak_mb"]),
            ]
        )
    cells = [f"{reference[side]:.2f} s (1x)" for side in sides]
    rows.append(["OpenCV Telea, 8 bit", "", *cells, "", megabytes(results["opencv"]["peak_mb"])])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def megabytes(value: float | None) -> str:
    """A cell of the table."""
    return "not measured" if value is None else f"{value:.0f} MB"


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each case (default 5)")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 4096], help="sizes of the maps")
    parser.add_argument("--extension", type=Path, help="use this zip in place of building one")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "runs" / "benchmarks.json", help="the JSON file"
    )
    options = parser.parse_args()
    sides: list[int] = options.sides
    try:
        version, python = environments.main_python()
        unit = environments.ensure(environments.for_tests(version, python))
        blender = environments.ensure(environments.blender_environments({version: python})[-1])
        with tempfile.TemporaryDirectory(prefix="normal_inpaint_bench_") as name:
            scratch = Path(name)
            extension = options.extension
            if extension is None:
                say("Building the extension ...")
                subprocess.run([unit, "build_addon.py", "--output", scratch / "dist"], cwd=ROOT, check=True)
                (extension,) = (scratch / "dist").glob("*.zip")
            answer([unit, "-m", "benchmarks.maps", "write", scratch, *map(str, sides)])
            results: dict[str, Any] = {
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
                "runs": options.runs,
            }
            for kind in ("onnx", "torch"):
                say(f"Blender with {kind} ...")
                results[kind] = answer(
                    [
                        blender, HERE / "scene.py",
                        "--extension", extension.resolve(), "--maps", scratch, "--engine", kind,
                        "--python", unit if kind == "torch" else "", "--runs", str(options.runs),
                        *map(str, sides),
                    ],
                    BLENDER_USER_RESOURCES=str(scratch / f"blender {kind}"),
                )  # fmt: skip
            say("OpenCV ...")
            results["opencv"] = answer(
                [unit, "-m", "benchmarks.maps", "opencv", scratch, str(options.runs), *map(str, sides)]
            )
    except (SetupError, subprocess.SubprocessError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2), encoding="utf-8")
    say(
        f"\n{results['machine']}, Blender {results['onnx']['blender']}; a hole of 5 % of the map; medians of "
        f"{options.runs} runs, and how many times OpenCV's time that is\n"
    )
    say(table(results, sides))
    return 0


if __name__ == "__main__":
    sys.exit(main())
