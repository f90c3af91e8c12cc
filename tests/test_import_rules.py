"""Which part may import which, read from the source; and that core needs neither Blender nor a network."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "blender_normal_inpaint"

#: Who may import whom among our own parts. "package" is the package's own __init__ and __main__.
ALLOWED = {
    "core": {"core"},
    "nets": {"nets"},
    "worker.protocol": {"core", "worker.protocol"},
    "worker.client": {"core", "worker.protocol", "worker.jobfolder"},
    "worker.jobfolder": set(),
    # Run by path in the other process; it mounts the package itself and only then imports the server.
    "worker.boot": {"core", "worker.protocol", "worker.server", "worker.boot"},
    "worker.engines": {"core", "nets"},
    "worker.server": {"core", "worker.protocol", "worker.engines"},
    "worker": {"worker", "core"},
    "addon": {"addon", "core", "worker.client", "worker.protocol", "worker.jobfolder"},
    "main": {"core", "worker.engines"},
    "package": {"addon"},
    # Its evaluation measures the shipped path from end to end, and that begins with an engine.
    "trainer": {"trainer", "nets", "core", "worker.engines"},
}

#: Third-party modules each part may import; whatever is not here is for nobody.
FOREIGN = {
    "numpy": {"core", "worker", "addon", "nets", "trainer"},
    "OpenImageIO": {"core.files", "trainer"},
    "onnxruntime": {"worker.engines", "trainer"},
    "torch": {"nets", "worker.engines", "trainer"},
    "safetensors": {"worker.engines", "trainer"},
    "trimesh": {"core.meshfile", "trainer"},
    "bpy": {"addon"},
    "bpy_extras": {"addon"},
    "mathutils": {"addon"},
    "gpu": {"addon"},
    "gpu_extras": {"addon"},
    "blf": {"addon"},
}


def modules():
    for folder in (ROOT / PACKAGE, ROOT / "trainer"):
        for path in sorted(folder.rglob("*.py")):
            yield (
                path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"),
                path,
            )


def part_of(module: str) -> str:
    """The part that a module of ours belongs to: the longest key of ALLOWED that names it."""
    if module == PACKAGE:
        return "package"
    if module == f"{PACKAGE}.__main__":
        return "main"
    inner = module.removeprefix(f"{PACKAGE}.")
    return max((key for key in ALLOWED if inner == key or inner.startswith(key + ".")), key=len)


def imports(module: str, path: Path):
    """Every module imported anywhere in a file, absolute, with its line."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno, False
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base]) if base else ".".join(anchor)
            for name in node.names:
                # "from .. import x" may name a module or a thing in one.
                inner = f"{base}.{name.name}"
                file = ROOT / Path(*inner.split("."))
                is_module = file.with_suffix(".py").is_file() or file.is_dir()
                yield (inner if is_module else base), node.lineno, bool(node.level)


def test_the_rules_see_the_whole_project():
    names = {name for name, _ in modules()}
    assert {f"{PACKAGE}.core.fill", f"{PACKAGE}.__main__", PACKAGE} <= names


@pytest.mark.parametrize(
    ("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_point_one_way(module, path):
    part = part_of(module)
    inner = module.removeprefix(f"{PACKAGE}.")
    for name, line, relative in imports(module, path):
        where = f"{path.relative_to(ROOT)}:{line}"
        top = name.split(".")[0]
        if top in (PACKAGE, "trainer"):
            if part != "trainer":
                assert relative, f"{where}: inside the package imports are relative, {name} is not"
            target = part_of(name)
            allowed = ALLOWED[part]
            assert any(target == key or target.startswith(key + ".") for key in allowed), (
                f"{where}: {part} must not import {name}"
            )
        elif top not in sys.stdlib_module_names and part != "trainer":
            allowed = FOREIGN.get(top, set())
            assert any(inner == key or inner.startswith(key + ".") for key in allowed), (
                f"{where}: {part} must not import {top}"
            )


HEAVY = ("bpy", "torch", "onnxruntime", "OpenImageIO", "scipy", "cv2", "trimesh")


@pytest.mark.parametrize("blocked", [("bpy",), HEAVY])
def test_package_and_core_import_without_blender_or_networks(blocked):
    core = [name for name, _ in modules() if name.startswith(f"{PACKAGE}.core")]
    parts = [f"{PACKAGE}.{part}" for part in ("__main__", "worker.engines", "worker.client")]
    code = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import importlib\n"
        f"for name in {[PACKAGE, *core, *parts]!r}:\n"
        "    importlib.import_module(name)\n"
        f"print(sorted(name for name in {HEAVY!r} if sys.modules.get(name) is not None))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
