"""Real Blender for the tests here: one or more Pythons with the bpy wheel, named in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VARIABLE = "NORMAL_INPAINT_BPY_PYTHONS"
#: Generous: a loaded machine is no failure, a hanging Blender is.
TIMEOUT = 300

sys.path.insert(0, str(ROOT))

import build_addon  # noqa: E402


def bpy_pythons() -> list[str]:
    return [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.blender)
            item.add_marker(pytest.mark.timeout(TIMEOUT + 60))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "bpy_python" in metafunc.fixturenames:
        pythons = bpy_pythons() or [""]
        metafunc.parametrize("bpy_python", pythons, ids=[_name(entry) for entry in pythons], scope="session")


def _name(python: str) -> str:
    return Path(python).parent.parent.name or "no_blender"


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The extension as a user gets it; a ready one may be named in NORMAL_INPAINT_ZIP."""
    if not bpy_pythons():
        pytest.fail(
            f"{VARIABLE} is not set: name one or more Python programs that have the bpy wheel, separated "
            f'by "{os.pathsep}", or leave these tests out with -m "not blender".'
        )
    ready = os.environ.get("NORMAL_INPAINT_ZIP")
    if ready:
        return Path(ready)
    cache = Path(os.environ.get("NORMAL_INPAINT_WHEEL_CACHE") or ROOT / "build" / "wheels")
    target = tmp_path_factory.mktemp("dist")
    return build_addon.build(build_addon.current_platform(), "official", target, cache)


@pytest.fixture
def run_inside(bpy_python: str, archive: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a scenario in a Blender process of its own; its output."""

    def run(scenario: str, work: Path | None = None) -> str:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BLENDER_"))
        }
        environment["BLENDER_USER_RESOURCES"] = str(tmp_path / "blender user")
        done = subprocess.run(
            [bpy_python, str(HERE / "inside.py"), str(archive), str(work or tmp_path), scenario],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0 and f"scenario passed: {scenario}" in done.stdout, (
            f"exit status {done.returncode}\n{done.stdout[-8000:]}"
        )
        return done.stdout

    return run
