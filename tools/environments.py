"""Virtual environments for the demo, the tests and the benchmarks, made on first use.

Only the standard library is used, so that the commands run on a machine that has Python and nothing else.
Every environment lies in `.environments/` under the repository and carries a stamp of what it was made
from: a changed requirement rebuilds it, an interrupted set-up is started again (pip's cache keeps what it had
downloaded), and a finished one costs a file read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".environments"

#: The Pythons that have Blender wheels, and the Blenders that the tests run in each of them.
BLENDERS: dict[str, tuple[str, ...]] = {"3.11": ("4.2.23", "5.0.1"), "3.13": ("5.2.3",)}

#: What a full Blender of that release brings where its wheel leaves pip the choice.
_PINNED: dict[str, tuple[str, ...]] = {"4.2.23": ("numpy==1.24.3",)}

#: What pip prints when the machine has no way to the package index.
_OFFLINE_SIGNS = (
    "Retrying (Retry(",
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "ProxyError",
    "ConnectTimeoutError",
    "getaddrinfo failed",
)

_STAMP = "normal_inpaint_stamp.json"


class SetupError(Exception):
    """An environment could not be made; the message says why and what to do."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment: which Python it is made with and what pip puts into it.

    `requirements` are pip's own words, one argument each; `extras` installs the project itself, editable,
    with those extras.
    """

    name: str
    interpreter: Path
    version: str
    requirements: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return HOME / f"{self.name}-py{self.version}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        if os.name == "nt":
            return self.folder / "Scripts" / "python.exe"
        return self.folder / "bin" / "python"

    def stamp(self) -> str:
        """A hash of everything that decides what is installed."""
        parts: dict[str, object] = {"python": self.version, "requirements": self.requirements}
        if self.extras:
            with (ROOT / "pyproject.toml").open("rb") as file:
                settings = tomllib.load(file)
            project = settings["project"]
            parts["extras"] = self.extras
            parts["build"] = settings["build-system"]
            parts["packages"] = settings.get("tool", {}).get("setuptools", {})
            parts["root"] = str(ROOT)  # an editable install points here
            parts["project"] = {
                key: project.get(key) for key in ("name", "version", "dependencies", "optional-dependencies")
            }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_ready(self) -> bool:
        """Whether it is there, complete, and made from today's requirements."""
        try:
            found = json.loads((self.folder / _STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(found, dict) and found.get("stamp") == self.stamp() and self.python.exists()


def ensure(environment: Environment) -> Path:
    """Makes the environment unless it is ready.

    Returns:
        Its interpreter.

    Raises:
        SetupError: The set-up failed; the message names the cause and the log.
    """
    with _lock():
        if not environment.is_ready():
            _build(environment)
    return environment.python


def _build(environment: Environment) -> None:
    folder = environment.folder
    log = HOME / f"{folder.name}.log"
    wanted = list(environment.requirements)
    if environment.extras:
        wanted += ["-e", f"{ROOT}[{','.join(environment.extras)}]"]
    say(f"Setting up {folder.relative_to(ROOT).as_posix()} ({' '.join(wanted)}) ...")
    started = time.monotonic()
    with contextlib.suppress(OSError):
        (folder / _STAMP).unlink()
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    log.write_text("", encoding="utf-8")
    _logged([str(environment.interpreter), "-m", "venv", "--clear", str(folder)], log, environment)
    if wanted:
        pip = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
        _logged([*pip, "--progress-bar", "off", *wanted], log, environment)
    stamp = folder / _STAMP
    partial = stamp.with_suffix(".partial")
    partial.write_text(json.dumps({"stamp": environment.stamp()}), encoding="utf-8")
    partial.replace(stamp)
    say(f"  ready after {time.monotonic() - started:.0f} s")


def _logged(command: Sequence[str], log: Path, environment: Environment) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write("$ " + " ".join(command) + "\n")
        file.flush()
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=clean_environment()
        )
    if done.returncode == 0:
        return
    text = log.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join("    " + line for line in text.splitlines()[-12:])
    if any(sign in text for sign in _OFFLINE_SIGNS):
        cause = "The packages could not be downloaded. Connect to the internet and run the command again."
    elif "ensurepip" in text:
        cause = "This Python cannot make virtual environments. On Debian and Ubuntu, install python3-venv."
    elif "No space left" in text or "Errno 28" in text:
        cause = "The disk is full. Free a few gigabytes and run the command again."
    elif "No matching distribution" in text:
        cause = (
            "There is no package for this system or Python. Blender's wheels exist for Linux x86-64, "
            "Windows x86-64 and macOS, with Python 3.11 and 3.13."
        )
    else:
        cause = "The set-up failed."
    raise SetupError(f"{cause}\n  Environment: {environment.folder.name}. Log: {log}\n{tail}")


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Keeps two commands from building the same environment; the system frees it if the holder dies."""
    HOME.mkdir(exist_ok=True)
    with (HOME / ".lock").open("a+b") as file:
        waited = False
        while not _try_lock(file.fileno()):
            if not waited:
                say("Waiting for another command that is setting up environments ...")
                waited = True
            time.sleep(0.5)
        try:
            yield
        finally:
            _unlock(file.fileno())


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment variables without those that would leak its Python into another.

    pip's own settings (indexes, proxies, caches) are kept.
    """
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PYTHONSTARTUP"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, **extra}


def find_pythons() -> dict[str, Path]:
    """The installed Pythons that Blender wheels exist for.

    Returns:
        version ("3.11") -> interpreter, this one first where it fits. A virtual environment's interpreter is
        replaced by the one it was made from, so that environments do not nest.
    """
    found: dict[str, Path] = {}
    for command in _candidates():
        version, path = _ask(command)
        if version in BLENDERS and version not in found and path is not None:
            found[version] = path
    return found


def _candidates() -> Iterator[list[str]]:
    yield [sys.executable]
    for version in BLENDERS:
        yield [f"python{version}"]
        if os.name == "nt":
            yield ["py", f"-{version}"]
    # pyenv keeps versions that are not on the path.
    pyenv = Path(os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))) / "versions"
    for version in BLENDERS:
        for path in sorted(pyenv.glob(f"{version}.*/bin/python")):
            yield [str(path)]


def _ask(command: list[str]) -> tuple[str, Path | None]:
    program = shutil.which(command[0])
    if program is None:
        return "", None
    code = (
        "import json, sys, venv, ensurepip; version = '%d.%d' % sys.version_info[:2]; "
        "print(json.dumps([version, getattr(sys, '_base_executable', sys.executable)]))"
    )
    try:
        done = subprocess.run(
            [program, *command[1:], "-c", code],
            capture_output=True,
            text=True,
            timeout=30,
            env=clean_environment(),
        )
        version, path = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        return "", None
    return str(version), Path(path)


def main_python() -> tuple[str, Path]:
    """The Python that the commands build on: the running one where Blender wheels exist for it.

    Raises:
        SetupError: Neither this Python nor another on this machine will do.
    """
    found = find_pythons()
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in (running, *BLENDERS):
        if version in found:
            return version, found[version]
    raise SetupError(
        f"Blender's wheels exist for Python {' and '.join(BLENDERS)}; this is Python {running}, and no "
        "other was found. Install Python 3.11 or 3.13 from python.org and run the command with it."
    )


def for_tests(version: str, python: Path) -> Environment:
    """The environment of tests and benchmarks: the project with all that it can use, but no Blender."""
    return Environment("tests", python, version, extras=("onnx", "torch", "train", "dev"))


def blender_environments(pythons: dict[str, Path]) -> list[Environment]:
    """One environment per Blender that the given Pythons can host, oldest Blender first."""
    return [
        Environment(
            f"blender-{release}", path, version, requirements=(f"bpy=={release}", *_PINNED.get(release, ()))
        )
        for version, path in sorted(pythons.items(), key=lambda item: [int(n) for n in item[0].split(".")])
        for release in BLENDERS[version]
    ]


def say(text: str) -> None:
    """Prints a line at once, also where the output is a pipe."""
    print(text, flush=True)
