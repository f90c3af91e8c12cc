"""Build the Blender extension: one installable zip per platform.

    python build_addon.py                        for this machine and the Pythons of official Blenders
    python build_addon.py --platform all --python all

Stages a copy of the package, fetches the unmodified wheels it needs with pip (checked against the hashes
below, kept in a cache), writes `platforms` and `wheels` into the manifest of the copy, and packs the copy
into a zip whose bytes depend on nothing but its contents. Needs only Python and its pip.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "blender_normal_inpaint"

#: What of the package goes into the extension; anything else in its folders is left out.
SUFFIXES = {".py", ".toml", ".json", ".onnx", ".safetensors"}

#: The cards of what tells which way a head looks, and of the morphable model of heads.
HEAD_CARDS = ("head_pose.json", "head_shapes.json")

#: The earliest moment that a zip can hold: every entry carries it.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)

PLATFORMS = ("linux-x64", "windows-x64", "macos-arm64")
#: Which CPython tags one zip serves: official Blenders have 3.11 (4.2 to 5.0) and 3.13 (5.1 on); some
#: distributions build theirs with their own 3.14. Blender refuses a zip without a wheel for its Python.
PYTHONS = {"official": ("cp311", "cp313"), "3.14": ("cp314",)}

_BAD_MESSAGE = "the wheel is not the one this project was tested with; it was removed from the cache"


class BuildError(Exception):
    """The build cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Wheel:
    """A wheel exactly as its authors published it."""

    file: str
    sha256: str

    @property
    def tags(self) -> tuple[str, str, str, str, str]:
        """Name, version, Python tag, ABI tag and platform tag, from the file name."""
        name, version, python, abi, system = self.file.removesuffix(".whl").split("-")
        return name, version, python, abi, system


#: Everything that is bundled. numpy is Blender's own. ONNX Runtime declares more dependencies (flatbuffers,
#: packaging, protobuf, sympy, coloredlogs), but imports none of them to run a network; a test holds that.
WHEELS: dict[tuple[str, str], tuple[Wheel, ...]] = {
    ("linux-x64", "cp311"): (
        Wheel(
            "onnxruntime-1.23.2-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            "da44b99206e77734c5819aa2142c69e64f3b46edc3bd314f6a45a932defc0b3e",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp311-cp311-manylinux_2_28_x86_64.whl",
            "1133b6a6c04270398c419804e0d293b2bb3ce2d7607a17724cc45f385036b05b",
        ),
    ),
    ("linux-x64", "cp313"): (
        Wheel(
            "onnxruntime-1.23.2-cp313-cp313-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            "8bace4e0d46480fbeeb7bbe1ffe1f080e6663a42d1086ff95c1551f2d39e7872",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp313-cp313-manylinux_2_28_x86_64.whl",
            "7b0b0c62342325ea1acc8e6343e12e52e1686985af4a5c43f9e54b173b3bbed7",
        ),
    ),
    ("linux-x64", "cp314"): (
        Wheel(
            "onnxruntime-1.24.4-cp314-cp314-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
            "14ed1f197fab812b695a5eaddb536c635e58a2fbbe50a517c78f082cc6ce9177",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp314-cp314-manylinux_2_28_x86_64.whl",
            "980efa9bd5159ebfb986d18ebcdcfe2ce1ee65bb49c7b784b4e04ef5d1d371b5",
        ),
    ),
    ("windows-x64", "cp311"): (
        Wheel(
            "onnxruntime-1.23.2-cp311-cp311-win_amd64.whl",
            "902c756d8b633ce0dedd889b7c08459433fbcf35e9c38d1c03ddc020f0648c6e",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp311-cp311-win_amd64.whl",
            "18312518d907eeb6ab882daff157c1f8e1fc9bc80a12d67b34fb3a41ccf37d8c",
        ),
    ),
    ("windows-x64", "cp313"): (
        Wheel(
            "onnxruntime-1.23.2-cp313-cp313-win_amd64.whl",
            "1f9cc0a55349c584f083c1c076e611a7c35d5b867d5d6e6d6c823bf821978088",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp313-cp313-win_amd64.whl",
            "f3d38c001657d9770b63442277a49b854943d0aa9112c33a14a786895006130e",
        ),
    ),
    ("windows-x64", "cp314"): (
        Wheel(
            "onnxruntime-1.24.4-cp314-cp314-win_amd64.whl",
            "311e309f573bf3c12aa5723e23823077f83d5e412a18499d4485c7eb41040858",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp314-cp314-win_amd64.whl",
            "5208e65401c2dd4107050cf8f7d05e3933410bf83576b92043b56c7477745240",
        ),
    ),
    ("macos-arm64", "cp311"): (
        Wheel(
            "onnxruntime-1.23.2-cp311-cp311-macosx_13_0_arm64.whl",
            "6f91d2c9b0965e86827a5ba01531d5b669770b01775b23199565d6c1f136616c",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp311-cp311-macosx_11_0_arm64.whl",
            "052b2f031bb41453eba0a97a2a3c6be7a43db597228efad6273355838d14f835",
        ),
    ),
    ("macos-arm64", "cp313"): (
        Wheel(
            "onnxruntime-1.23.2-cp313-cp313-macosx_13_0_arm64.whl",
            "2ff531ad8496281b4297f32b83b01cdd719617e2351ffe0dba5684fb283afa1f",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp313-cp313-macosx_11_0_arm64.whl",
            "44706be7dc53a991afa3e07423b8bf17aaa7eea43e87915b823c26fe8bb1fc86",
        ),
    ),
    ("macos-arm64", "cp314"): (
        Wheel(
            "onnxruntime-1.24.4-cp314-cp314-macosx_14_0_arm64.whl",
            "fbff2a248940e3398ae78374c5a839e49a2f39079b488bc64439fa0ec327a3e4",
        ),
        Wheel(
            "openimageio-3.2.2.0-cp314-cp314-macosx_11_0_arm64.whl",
            "6e5acfb1ff948d4ec56abf71534c10b3ce41f63bb774ebf1e8902786fb494b54",
        ),
    ),
}


def current_platform() -> str:
    """The name that Blender gives this machine.

    Raises:
        BuildError: No wheels exist for it.
    """
    system = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = platform.machine().lower()
    name = f"{system}-{ {'x86_64': 'x64', 'amd64': 'x64', 'aarch64': 'arm64'}.get(machine, machine) }"
    if name not in PLATFORMS:
        raise BuildError(f"There are no wheels for {name}; choose one of {', '.join(PLATFORMS)}.")
    return name


def sha256(path: Path) -> str:
    """The file's hash in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel's file in the cache, downloaded if need be, its hash checked either way.

    Raises:
        BuildError: It could not be had, or is not the one that was pinned.
    """
    path = cache / wheel.file
    if not path.is_file():
        _download(wheel, cache)
    if not path.is_file():
        raise BuildError(f"pip did not bring {wheel.file}.")
    if sha256(path) != wheel.sha256:
        path.unlink()
        raise BuildError(f"{wheel.file}: {_BAD_MESSAGE}.")
    return path


def _download(wheel: Wheel, cache: Path) -> None:
    name, version, python, abi, systems = wheel.tags
    cache.mkdir(parents=True, exist_ok=True)
    # Into a folder of its own first: a broken download never looks like a finished one.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", folder, "--implementation", "cp"]
        command += ["--python-version", python.removeprefix("cp"), "--abi", abi]
        for system in systems.split("."):
            command += ["--platform", system]
        done = subprocess.run([*command, f"{name}=={version}"], capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"{wheel.file} could not be downloaded:\n{(done.stderr or done.stdout).strip()}")
        for found in Path(folder).glob("*.whl"):
            found.replace(cache / found.name)


def stage(target: Path, models: Path | None = None) -> None:
    """Copy what belongs into the extension.

    Args:
        target: A new folder.
        models: A folder with a model card and its weights to bundle in place of the package's own. The
            small network for heads' poses is always the package's.

    Raises:
        BuildError: The weights are missing or do not match their card.
    """
    for source in sorted(PACKAGE.rglob("*")):
        relative = source.relative_to(PACKAGE)
        if source.suffix not in SUFFIXES or "__pycache__" in relative.parts or not source.is_file():
            continue
        if relative.parts[0] == "models":
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / relative)
    shutil.copyfile(ROOT / "LICENSE", target / "LICENSE")
    _stage_models(models or PACKAGE / "models", target / "models")
    for name in HEAD_CARDS:
        _stage_card(name, target / "models")


def _stage_models(source: Path, target: Path) -> None:
    # The card's own reader needs no more than the standard library.
    sys.path.insert(0, str(ROOT))
    try:
        from blender_normal_inpaint.core.errors import InpaintError
        from blender_normal_inpaint.core.modelcard import default_card_path, load_card, verify
    finally:
        sys.path.pop(0)
    path = source / default_card_path().name
    target.mkdir(parents=True)
    try:
        card = load_card(path)
        shutil.copyfile(path, target / path.name)
        for kind in sorted(card.files):
            weights = verify(card, kind)
            shutil.copyfile(weights, target / weights.name)
    except InpaintError as error:
        raise BuildError(f"The weights cannot be bundled: {error.message} ({error.detail})") from error


def _stage_card(card: str, target: Path) -> None:
    source = PACKAGE / "models"
    try:
        entry = json.loads((source / card).read_text(encoding="utf-8"))["file"]
        weights = (source / str(entry["file"])).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"What {card} describes cannot be bundled: {error}") from error
    if hashlib.sha256(weights).hexdigest() != entry["sha256"]:
        raise BuildError(f"{entry['file']} does not match its card {card}")
    for name in (card, str(entry["file"])):
        shutil.copyfile(source / name, target / name)


def write_manifest(folder: Path, system: str, wheels: list[str]) -> dict[str, object]:
    """Add the platform and the wheels to the staged manifest; return it as a dictionary.

    Raises:
        BuildError: The manifest does not come out as it should.
    """
    path = folder / "blender_manifest.toml"
    text = path.read_text(encoding="utf-8")
    lines = [f'platforms = ["{system}"]', "wheels = [", *(f'    "./wheels/{name}",' for name in wheels), "]"]
    # Keys after a [table] header would belong to the table.
    head, table, tail = text.partition("\n[")
    text = re.sub(r"\n# build_addon\.py adds[^\n]*\n", "\n", head).rstrip() + "\n"
    text += "\n".join(["", *lines, ""]) + table + tail
    manifest = tomllib.loads(text)
    if manifest.get("platforms") != [system] or len(manifest.get("wheels", [])) != len(wheels):
        raise BuildError("blender_manifest.toml has an unexpected layout.")
    path.write_text(text, encoding="utf-8", newline="\n")
    return manifest


def pack(folder: Path, target: Path) -> None:
    """Zip a folder; the same files always give the same bytes.

    Entries are sorted, carry one fixed time and mode, and are stored: nearly all of the zip is wheels and
    weights, which do not get smaller, and different zlibs compress the rest differently.
    """
    beside = target.with_name(target.name + ".part")
    beside.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda item: item.relative_to(folder).as_posix()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), TIMESTAMP)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, path.read_bytes())
    beside.replace(target)


def validator() -> Path | None:
    """Blender's own checker of extensions, where the bpy module is installed; bpy is not imported."""
    spec = importlib.util.find_spec("bpy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(folder).glob("*/scripts/addons_core/bl_pkg/cli/blender_ext.py")):
            return found
    return None


def validate(archive: Path) -> str:
    """Run Blender's own check on a zip if it can be had; return one line about it.

    Raises:
        BuildError: Blender would refuse it.
    """
    checker = validator()
    if checker is None:
        return "not checked by Blender's own validator: the bpy module is not installed here"
    done = subprocess.run(
        [sys.executable, str(checker), "validate", str(archive)], capture_output=True, text=True
    )
    if done.returncode:
        raise BuildError(f"Blender refuses {archive.name}:\n{(done.stdout + done.stderr).strip()}")
    return "passes Blender's own validator"


def build(system: str, pythons: str, output: Path, cache: Path, models: Path | None = None) -> Path:
    """Build one zip.

    Args:
        system: One of `PLATFORMS`.
        pythons: A key of `PYTHONS`.
        output: The folder for the zip.
        cache: The folder for downloaded wheels.
        models: As for `stage`.

    Raises:
        BuildError: It cannot be built.
    """
    wheels = [wheel for tag in PYTHONS[pythons] for wheel in WHEELS[system, tag]]
    files = [fetch(wheel, cache) for wheel in wheels]
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "normal_inpaint"
        staged.mkdir()
        stage(staged, models)
        (staged / "wheels").mkdir()
        for file in files:
            shutil.copyfile(file, staged / "wheels" / file.name)
        manifest = write_manifest(staged, system, [file.name for file in files])
        extra = "" if pythons == "official" else f"-python{pythons}"
        target = output / f"{manifest['id']}-{manifest['version']}-{system}{extra}.zip"
        pack(staged, target)
    return target


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--platform", choices=(*PLATFORMS, "all"), help="for which machines (default: this one's kind)"
    )
    parser.add_argument(
        "--python",
        choices=(*PYTHONS, "all"),
        default="official",
        help="for Blenders with which Python: official ones (3.11, 3.13) or distribution builds (3.14)",
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the zips")
    parser.add_argument(
        "--wheel-cache", type=Path, default=ROOT / "build" / "wheels", help="folder for downloaded wheels"
    )
    parser.add_argument(
        "--models", type=Path, help="bundle the card and weights in this folder in place of the package's"
    )
    options = parser.parse_args(arguments)
    try:
        systems = PLATFORMS if options.platform == "all" else (options.platform or current_platform(),)
        pythons = tuple(PYTHONS) if options.python == "all" else (options.python,)
        for system in systems:
            for kind in pythons:
                made = build(system, kind, options.output, options.wheel_cache, options.models)
                size = made.stat().st_size / 1e6
                print(f"{made} ({size:.1f} MB, sha256 {sha256(made)[:16]}..., {validate(made)})", flush=True)
    except BuildError as error:
        print(f"build_addon: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
