"""The set-up of the development commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import environments
from tools.environments import Environment, SetupError

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "HOME", tmp_path / "envirönments here")
    monkeypatch.setattr(environments, "ROOT", tmp_path)


def plain(*requirements: str) -> Environment:
    base = Path(getattr(sys, "_base_executable", sys.executable))
    return Environment("plain", base, VERSION, requirements)


def test_an_environment_is_made_once_and_again_when_its_requirements_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python = environments.ensure(plain())
    assert subprocess.run([python, "-c", "import pip"]).returncode == 0
    mark = plain().folder / "mark"
    mark.touch()
    assert environments.ensure(plain()) == python and mark.exists()

    monkeypatch.setattr(environments, "_logged", lambda command, log, environment: None)
    assert not plain("something").is_ready()


def test_what_was_interrupted_is_made_again() -> None:
    folder = plain().folder
    folder.mkdir(parents=True)
    (folder / "left over").touch()
    assert not plain().is_ready()
    environments.ensure(plain())
    assert plain().is_ready() and not (folder / "left over").exists()


def test_a_failed_install_says_so_and_leaves_no_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SetupError, match="no package for this system"):
        environments.ensure(plain("no-such-package-of-this-project"))
    assert not plain("no-such-package-of-this-project").is_ready()


def test_without_a_network_it_says_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if sys.platform != "win32" else "nul")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_TIMEOUT", "1")
    with pytest.raises(SetupError, match="Connect to the internet"):
        environments.ensure(plain("pillow"))


def test_the_stamp_follows_the_projects_requirements(tmp_path: Path) -> None:
    text = '[build-system]\nrequires = []\n[project]\nname = "x"\ndependencies = ["{}"]\n'
    environment = Environment("unit", Path(sys.executable), VERSION, extras=("dev",))
    stamps = set()
    for requirement in ("numpy>=1.24", "numpy>=1.26"):
        (tmp_path / "pyproject.toml").write_text(text.format(requirement), encoding="utf-8")
        stamps.add(environment.stamp())
    assert len(stamps) == 2


def test_this_python_or_another_that_will_do_is_found() -> None:
    version, python = environments.main_python()
    assert version in environments.BLENDERS
    told = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True
    )
    assert told.stdout.strip() == version


def test_a_machine_without_a_fitting_python_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_pythons", dict)
    with pytest.raises(SetupError, match=r"Install Python 3\.11 or 3\.13"):
        environments.main_python()


def test_every_blender_gets_an_environment_oldest_first() -> None:
    found = environments.blender_environments({"3.13": Path("b"), "3.11": Path("a")})
    assert [environment.name for environment in found] == ["blender-4.2.23", "blender-5.0.1", "blender-5.2.3"]
