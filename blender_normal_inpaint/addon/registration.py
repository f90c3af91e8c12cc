"""What `register` and `unregister` of the extension do."""

import contextlib

import bpy
from bpy.app.handlers import persistent

from ..core.errors import InpaintError
from . import images, jobs, operators, panels, preferences, properties, tiles

#: In this order; taken out in reverse.
CLASSES = (
    *properties.CLASSES,
    preferences.NORMALINPAINT_preferences,
    *operators.CLASSES,
    *panels.CLASSES,
)


@persistent
def _before_load(*_: object) -> None:
    """A running job belongs to the file that is being closed."""
    jobs.drop()


@persistent
def _after_load(*_: object) -> None:
    """Messages belong to the file that was closed."""
    jobs.drop()
    jobs.state.error = None
    jobs.state.notices = []
    jobs.state.summary = ""
    jobs.state.made = 0
    jobs.state.switched = {}


@persistent
def _after_undo(*_: object) -> None:
    """Undo and redo change what images there are."""
    operators.follow_undo()


@persistent
def _before_save(*_: object) -> None:
    """A mask made here keeps its paint: Blender itself saves only packed pixels with the file."""
    for image in bpy.data.images:
        if images.holds_unsaved_paint(image):
            with contextlib.suppress(RuntimeError, InpaintError):
                if tiles.is_tiled(image):
                    tiles.pack(image)
                else:
                    image.pack()


_HANDLERS = (
    ("load_pre", _before_load),
    ("load_post", _after_load),
    ("save_pre", _before_save),
    ("undo_post", _after_undo),
    ("redo_post", _after_undo),
)


def _drop_handlers() -> None:
    for place, handler in _HANDLERS:
        listed = getattr(bpy.app.handlers, place)
        for item in [item for item in listed if item.__name__ == handler.__name__]:
            if item.__module__ == handler.__module__:
                listed.remove(item)


def register() -> None:
    """Add everything to Blender; on failure nothing stays behind."""
    done = []
    try:
        for item in CLASSES:
            bpy.utils.register_class(item)
            done.append(item)
        properties.attach()
    except Exception:
        for item in reversed(done):
            bpy.utils.unregister_class(item)
        raise
    _drop_handlers()
    for place, handler in _HANDLERS:
        getattr(bpy.app.handlers, place).append(handler)


def unregister() -> None:
    """Stop the worker, then take everything out again."""
    jobs.shut_down()
    _drop_handlers()
    with contextlib.suppress(AttributeError):
        properties.detach()
    for item in reversed(CLASSES):
        bpy.utils.unregister_class(item)
