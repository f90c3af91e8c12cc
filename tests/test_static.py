"""The code as text: lint, format-independent rules, and types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Everything that is ours and Python, but the tests.
CODE = ["blender_normal_inpaint", "trainer", "tools", "demo", "benchmarks", "build_addon.py"]
#: The tests are no package: each folder is checked by itself.
TESTS = [["tests"], ["tests/blender"], ["tests/window"]]
#: Tests need no signatures; what they call is checked all the same.
RELAXED = [
    "--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls", "--allow-untyped-decorators",
    "--allow-any-generics", "--implicit-reexport", "--no-warn-return-any", "--no-warn-unused-ignores",
]  # fmt: skip


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def test_ruff() -> None:
    run("ruff", "check", "--no-cache", ".")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("paths", [CODE, *TESTS], ids=["code", "tests", "tests-blender", "tests-window"])
def test_mypy(paths: list[str]) -> None:
    files = [str(file) for path in paths for file in sorted((ROOT / path).glob("*.py"))]
    run("mypy", *([*RELAXED, *files] if paths in TESTS else paths))
