"""The extension's preferences, and the worker options they make.

No postponed annotations here: Blender reads properties from them.
"""

import tempfile
from pathlib import Path
from typing import Any

import bpy

from ..core.errors import InpaintError
from ..worker.client import WorkerOptions
from . import jobs

#: The package's name in Blender, such as "bl_ext.user_default.normal_inpaint".
ADDON = (__package__ or "").rpartition(".addon")[0]

_ENGINES = (
    ("auto", "Automatic", "PyTorch if a Python with it is named below and it has a GPU, else ONNX Runtime"),
    ("onnx", "ONNX Runtime", "The bundled engine: works everywhere, on the processor"),
    ("torch", "PyTorch", "Needs a Python with PyTorch, named below; uses its GPU"),
)


def _deadline(name: str, description: str, default: float, longest: float) -> Any:
    """A property in seconds."""
    return bpy.props.FloatProperty(
        name=name,
        description=description,
        default=default,
        min=1.0,
        max=longest,
        subtype="TIME_ABSOLUTE",
        unit="TIME_ABSOLUTE",
    )


class NORMALINPAINT_preferences(bpy.types.AddonPreferences):
    """Engine, weights and deadlines."""

    bl_idname = ADDON

    engine: bpy.props.EnumProperty(
        name="Engine", description="What runs the network", items=_ENGINES, default="auto"
    )
    python: bpy.props.StringProperty(
        name="Python with PyTorch",
        description="The python program of an environment that has PyTorch and safetensors; "
        "empty: only ONNX Runtime is used",
        subtype="FILE_PATH",
    )
    weights: bpy.props.StringProperty(
        name="Weights",
        description="Model card (.json) of other weights, which lie beside it; empty: the bundled network",
        subtype="FILE_PATH",
    )
    start_timeout: _deadline(
        "Start Deadline",
        "Seconds the engine may take to start before it is stopped",
        60.0,
        3600.0,
    )
    request_timeout: _deadline(
        "Repair Deadline",
        "Seconds the engine may take for one hole before it is stopped",
        600.0,
        86400.0,
    )
    stall_timeout: _deadline(
        "Silence Deadline",
        "Seconds the engine may work without reporting any progress before it is stopped",
        180.0,
        86400.0,
    )

    def draw(self, context: bpy.types.Context) -> None:
        """Blender's draw callback."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(self, "engine")
        row = column.row()
        row.active = self.engine != "onnx"
        row.prop(self, "python")
        column.prop(self, "weights")
        column = layout.column(align=True)
        column.prop(self, "start_timeout")
        column.prop(self, "request_timeout")
        column.prop(self, "stall_timeout")
        row = layout.row()
        row.label(text=f"Engine: {jobs.engine_status()}", icon="INFO")
        row = layout.row()
        row.operator("normal_inpaint.test_engine", icon="PLAY")
        row.operator("normal_inpaint.open_log", icon="TEXT")


def get() -> NORMALINPAINT_preferences | None:
    """The preferences; None where the package is registered without being an enabled extension."""
    addon = bpy.context.preferences.addons.get(ADDON)
    return addon.preferences if addon is not None else None


def log_path() -> Path:
    """The worker's log: in the extension's own user folder, else in the temporary one."""
    try:
        folder = Path(bpy.utils.extension_path_user(ADDON, path="logs", create=True))
    except (ValueError, OSError):
        folder = Path(tempfile.gettempdir())
    return folder / "normal_inpaint_worker.log"


def _chosen_file(text: str, what: str, code: str) -> Path | None:
    if not text:
        return None
    path = Path(bpy.path.abspath(text))
    if not path.is_file():
        raise InpaintError(
            code,
            f"The {what} set in the preferences does not exist: {path}.",
            "Correct it in the preferences of Normal Inpaint, or clear it.",
        )
    return path


def worker_options() -> WorkerOptions:
    """What the worker is to be started with, from the preferences as they are now.

    Raises:
        InpaintError: `worker_start` or `weights_missing` if a path in them leads nowhere.
    """
    preferences = get()
    own = jobs.blender_python()
    if preferences is None:
        return WorkerOptions(own, jobs.package_dir(), jobs.search_paths(), log_path=log_path())
    named = None
    if preferences.engine != "onnx":
        named = _chosen_file(preferences.python, "Python", "worker_start")
    return WorkerOptions(
        python=named or own,
        package_dir=jobs.package_dir(),
        search_paths=jobs.search_paths(),
        engine=preferences.engine,
        weights=_chosen_file(preferences.weights, "weights file", "weights_missing"),
        fallback_python=own if preferences.engine != "onnx" else None,
        start_timeout=preferences.start_timeout,
        request_timeout=preferences.request_timeout,
        stall_timeout=preferences.stall_timeout,
        log_path=log_path(),
    )
