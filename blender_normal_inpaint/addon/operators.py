"""The buttons. Each prepares, lets a job work, and finishes; none computes anything itself.

No postponed annotations here: Blender reads properties from them.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import bpy

from ..core.engine import Cancel, Progress
from ..core.errors import Cancelled, InpaintError
from . import images, jobs, maps, nodes, preferences, repair, save, tiles
from .properties import memory_of, settings_of

#: Seconds between two looks at a running job.
_TICK = 0.1
_EDITORS = {"VIEW_3D", "NODE_EDITOR", "IMAGE_EDITOR", "PREFERENCES"}


def active_material(context: bpy.types.Context) -> bpy.types.Material | None:
    """The material in view: a pinned or edited one in the Shader Editor, else the active object's."""
    space: Any = context.space_data
    if space is not None and space.type == "NODE_EDITOR" and isinstance(space.id, bpy.types.Material):
        return space.id
    thing = context.view_layer.objects.active
    return thing.active_material if thing is not None else None


def choices_of(scene: bpy.types.Scene | None) -> repair.Choices:
    """The panel's settings."""
    settings = settings_of(scene)
    return repair.Choices(
        space=settings.space,
        green=settings.green,
        up_axis=settings.up_axis,
        two_channel=settings.two_channel,
        grow=settings.grow,
        detail=settings.detail,
        symmetry=settings.symmetry,
        mesh=settings.mesh,
        seed=settings.seed,
    )


def current_pair(context: bpy.types.Context) -> nodes.Pair | None:
    """The repaired map of the active material and the one before."""
    return nodes.find_pair(active_material(context), settings_of(context.scene).image)


def current_result(context: bpy.types.Context) -> bpy.types.Image | None:
    """The result in view: shown in the Image Editor, or by the active material."""
    space: Any = context.space_data
    shown = space.image if space is not None and space.type == "IMAGE_EDITOR" else None
    if shown is not None and memory_of(shown).file_format:
        return cast(bpy.types.Image, shown)
    pair = current_pair(context)
    image = cast(Any, pair.result).image if pair is not None else None
    if image is not None and memory_of(image).file_format:
        return cast(bpy.types.Image, image)
    chosen = settings_of(context.scene).image
    return chosen if chosen is not None and memory_of(chosen).file_format else None


def still_there(image: int) -> bool:
    """Whether an image (a session's id; 0 for none) was not undone or removed."""
    return not image or any(item.session_uid == image for item in bpy.data.images)


def make_paintable(mask: bpy.types.Image, settings: Any) -> None:
    """Let painting go to the mask, in white: in Blender's tool settings, for every editor."""
    paint = settings.image_paint
    paint.mode = "IMAGE"
    paint.canvas = mask
    # Blender 5.0 moved what brushes share to each kind of painting.
    shared = getattr(paint, "unified_paint_settings", None) or getattr(
        settings, "unified_paint_settings", None
    )
    for holder in (shared, paint.brush):
        # None, or of a library that cannot be changed.
        with contextlib.suppress(AttributeError, RuntimeError, TypeError):
            holder.color = (1.0, 1.0, 1.0)
            holder.secondary_color = (0.0, 0.0, 0.0)


def painting_mask(context: bpy.types.Context) -> bool:
    """Whether the editor in view is one where the mask is being painted."""
    space: Any = context.space_data
    if space is not None and space.type == "IMAGE_EDITOR":
        mask = settings_of(context.scene).mask
        return bool(space.ui_mode == "PAINT" and mask is not None and space.image == mask)
    return context.mode == "PAINT_TEXTURE"


def leave_painting(paint: maps.Paint | None = None) -> None:
    """End the paint mode in view and keep what was painted, as an undo step of its own if there was any.

    Blender files whatever is done in a paint mode as a brush stroke: undoing it would go back too far. And
    whatever is undone after a stroke drops the stroke's image from memory. In return the material is seen.
    """
    changed = paint is not None and paint.keep()
    space: Any = bpy.context.space_data
    if space is not None and space.type == "IMAGE_EDITOR" and space.ui_mode == "PAINT":
        space.ui_mode = "VIEW"
        changed = True
    if bpy.context.mode == "PAINT_TEXTURE":
        bpy.ops.object.mode_set(mode="OBJECT")
        changed = True
    if changed:
        bpy.ops.ed.undo_push(message="Stop Painting")


def redraw(*, everything: bool = True) -> None:
    """Redraw the editors that show the panel; without `everything` only their sidebars, which is cheap."""
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type not in _EDITORS:
                continue
            if everything or area.type == "PREFERENCES":
                area.tag_redraw()
                continue
            for region in area.regions:
                if region.type == "UI":
                    region.tag_redraw()


def _image_editors() -> Iterator[bpy.types.Area]:
    for window in bpy.context.window_manager.windows:
        yield from (area for area in window.screen.areas if area.type == "IMAGE_EDITOR")


def show_in_editors(source: int, mask: int, result: bpy.types.Image) -> dict[int, int]:
    """Where an Image Editor shows the source or the mask (sessions' ids), it shows the result from now on.

    It then leaves its paint mode: strokes meant for the mask must not go to the result.

    Returns:
        As `jobs.state.switched`.
    """
    switched = {}
    for area in _image_editors():
        space: Any = area.spaces.active
        shown = space.image.session_uid if space.image is not None else 0
        if shown in (source, mask):
            switched[area.as_pointer()] = shown
            space.image = result
            space.ui_mode = "VIEW"
    return switched


def follow_undo() -> None:
    """Undo empties the editors that showed the result, and redo does not fill them: show what was shown."""
    images = {item.session_uid: item for item in bpy.data.images}
    result = images.get(jobs.state.made)
    came_back = result is not None and jobs.state.undone
    jobs.state.undone = result is None
    for area in _image_editors():
        before = jobs.state.switched.get(area.as_pointer())
        space: Any = area.spaces.active
        if before is None:
            continue
        if came_back and space.ui_mode == "VIEW":
            space.image = result
        elif space.image is None:
            space.image = images.get(before)


class JobOperator:
    """An operator whose work runs in a job: modal in a window, blocking in scripts and background."""

    _job: Any
    _timer: Any
    _after: Callable[[Any], Any]

    def start(
        self, context: bpy.types.Context
    ) -> tuple[Callable[[Progress, Cancel], Any], Callable[[Any], str]]:
        """What to do in the job, and what to do with its outcome on the main thread.

        The second returns the sentence to report.

        Raises:
            InpaintError: It cannot begin; nothing was changed.
        """
        raise NotImplementedError

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback for scripts and background: blocks until done."""
        manager: Any = None if bpy.app.background else context.window_manager

        def watch(fraction: float, text: str) -> None:
            if manager is not None:
                manager.progress_update(fraction * 100)

        try:
            if manager is not None:
                manager.progress_begin(0, 100)
            work, after = self.start(context)
            outcome = jobs.wait(jobs.begin(work), watch)
            return self._succeed(after(outcome))
        except InpaintError as error:
            return self._fail(error)
        finally:
            if manager is not None:
                manager.progress_end()
            redraw()

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender's callback for a click: returns at once, `modal` does the rest."""
        if bpy.app.background or context.window is None:
            return self.execute(context)
        try:
            work, self._after = self.start(context)
            self._job = jobs.begin(work)
        except InpaintError as error:
            return self._fail(error)
        manager = context.window_manager
        manager.progress_begin(0, 100)
        self._timer = manager.event_timer_add(_TICK, window=context.window)
        manager.modal_handler_add(cast(Any, self))
        redraw()
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender's callback for every event meanwhile."""
        job = self._job
        if event.type == "ESC" and event.value == "PRESS" and not job.finished:
            job.cancel()
            return {"RUNNING_MODAL"}
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        if not job.finished:
            fraction, text = job.progress()
            context.window_manager.progress_update(fraction * 100)
            if context.workspace is not None:
                context.workspace.status_text_set(
                    f"Normal Inpaint: {text}, {fraction * 100:.0f} %     Esc: cancel"
                )
            redraw(everything=False)
            return {"PASS_THROUGH"}
        self._tidy(context)
        try:
            return self._succeed(self._after(job.result()))
        except InpaintError as error:
            return self._fail(error)
        finally:
            redraw()

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender's callback when it ends the operator itself: another file, or closing the window."""
        if jobs.running() is self._job:
            jobs.drop()
        self._tidy(context)

    def _tidy(self, context: bpy.types.Context) -> None:
        jobs.end(self._job)
        manager = context.window_manager
        if manager is not None:
            manager.progress_end()
            manager.event_timer_remove(self._timer)
        if context.workspace is not None:
            context.workspace.status_text_set(None)

    def _succeed(self, summary: str) -> set[str]:
        jobs.state.summary = summary
        kind = "WARNING" if jobs.state.notices else "INFO"
        cast(Any, self).report({kind}, " ".join([summary, *jobs.state.notices]))
        return {"FINISHED"}

    def _fail(self, error: InpaintError) -> set[str]:
        jobs.fail(error)
        kind = "INFO" if isinstance(error, Cancelled) else "ERROR"
        cast(Any, self).report({kind}, str(error))
        return {"CANCELLED"}


class NORMALINPAINT_OT_inpaint(JobOperator, bpy.types.Operator):
    """Repair the masked area of the normal map: makes a new image and shows it in the material."""

    bl_idname = "normal_inpaint.inpaint"
    bl_label = "Inpaint"
    bl_description = "Repair the masked area of the normal map: makes a new image and shows it"
    bl_options = {"UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Reads state only: a map, a mask, no job running."""
        if jobs.running() is not None:
            cls.poll_message_set("A repair is already running. Wait until it is done, or press Esc")
            return False
        settings = settings_of(context.scene)
        if settings.mask is None:
            cls.poll_message_set("Choose a mask image, or make one with New Mask")
            return False
        try:
            repair.locate_image(active_material(context), settings.image)
        except InpaintError as error:
            cls.poll_message_set(str(error))
            return False
        return True

    def start(
        self, context: bpy.types.Context
    ) -> tuple[Callable[[Progress, Cancel], Any], Callable[[Any], str]]:
        """See `JobOperator.start`."""
        settings = settings_of(context.scene)
        task = repair.prepare(
            active_material(context),
            settings.image,
            settings.mask,
            settings.valid,
            choices_of(context.scene),
            context.view_layer.objects.active,
        )
        by_hand = settings.image is not None
        scene, mask = context.scene.session_uid, settings.mask.session_uid

        def after(outcome: repair.Outcome) -> str:
            leave_painting(outcome.paint)
            image = task.finish(outcome)
            jobs.state.notices = outcome.notices
            jobs.state.made = image.session_uid
            jobs.state.switched = show_in_editors(task.source, mask, image)
            if by_hand:
                # The next click repairs the result, as it does where the material tells the map.
                for item in bpy.data.scenes:
                    if item.session_uid == scene:
                        settings_of(item).image = image
            time = f"{outcome.seconds:.1f}\N{NO-BREAK SPACE}s"
            return f'Repaired {outcome.texels} texels in {time}: "{image.name}".'

        return task.work, after


class NORMALINPAINT_OT_cancel(bpy.types.Operator):
    """Stop the running job; nothing is changed."""

    bl_idname = "normal_inpaint.cancel"
    bl_label = "Cancel"
    bl_description = "Stop the running job; nothing is changed"
    bl_options = {"INTERNAL"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only while a job runs."""
        return jobs.running() is not None

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback."""
        job = jobs.running()
        if job is not None:
            job.cancel()
        redraw()
        return {"FINISHED"}


class NORMALINPAINT_OT_new_mask(JobOperator, bpy.types.Operator):
    """Make a mask image of the normal map's size, choose it as the mask and get it ready to paint."""

    bl_idname = "normal_inpaint.new_mask"
    bl_label = "New Mask"
    bl_description = (
        "Make a mask image of the normal map's size, choose it as the mask and get it ready to paint"
    )
    bl_options = {"REGISTER", "UNDO"}

    show_map: bpy.props.BoolProperty(
        name="Show the Map",
        description="Start from a dark copy of the map, so that the damage is seen while painting over it; "
        "only what is brighter than mid grey counts as mask. Off: start from black",
        default=True,
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Reads state only: there must be a normal map."""
        try:
            repair.locate_image(active_material(context), settings_of(context.scene).image)
        except InpaintError as error:
            cls.poll_message_set(str(error))
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender's callback for a click."""
        return super().invoke(context, event) if self._tiled(context) else self.execute(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback. What takes no job is done at once, in a window, too."""
        if self._tiled(context):
            return super().execute(context)
        try:
            leave_painting()
            mask = images.create_mask(self._source(context), show_map=self.show_map)
        except InpaintError as error:
            return self._fail(error)
        jobs.state.error = None
        self.report({"INFO"}, self._choose(mask))
        return {"FINISHED"}

    def start(
        self, context: bpy.types.Context
    ) -> tuple[Callable[[Progress, Cancel], Any], Callable[[Any], str]]:
        """See `JobOperator.start`: a tiled map's tiles are files that have to be read."""
        task = maps.new_tiled_mask(self._source(context), self.show_map)
        options = preferences.worker_options()

        def work(progress: Progress, cancel: Cancel) -> tiles.Files:
            return task.work(jobs.client_for(options), progress, cancel)

        def after(files: tiles.Files) -> str:
            leave_painting()
            return self._choose(task.finish(files))

        return work, after

    def _source(self, context: bpy.types.Context) -> bpy.types.Image:
        source, _ = repair.locate_image(active_material(context), settings_of(context.scene).image)
        return images.check_readable(source)

    def _tiled(self, context: bpy.types.Context) -> bool:
        try:
            return tiles.is_tiled(self._source(context))
        except InpaintError:
            return False  # `execute` finds out again, and says so

    @staticmethod
    def _choose(mask: bpy.types.Image) -> str:
        """Make it the mask that is painted, in the editor in view; what to do next."""
        context = bpy.context
        settings_of(context.scene).mask = mask
        make_paintable(mask, context.tool_settings)
        space: Any = context.space_data
        if space is not None and space.type == "IMAGE_EDITOR":
            space.image = mask
        return f'Paint the damage white in "{mask.name}", then click Inpaint.'


class NORMALINPAINT_OT_paint_mask(bpy.types.Operator):
    """Start or stop painting the mask, in white, in this editor."""

    bl_idname = "normal_inpaint.paint_mask"
    bl_label = "Paint the Mask"
    bl_description = "Start or stop painting the mask, in white, in this editor"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Reads state only: a mask, and something to paint on."""
        if painting_mask(context):
            return True
        if settings_of(context.scene).mask is None:
            cls.poll_message_set("Choose a mask image, or make one with New Mask")
            return False
        space = context.space_data
        if space is None or space.type != "IMAGE_EDITOR":
            return bool(cast(Any, bpy.ops).paint.texture_paint_toggle.poll())
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback."""
        settings = settings_of(context.scene)
        start = not painting_mask(context)
        space: Any = context.space_data
        if space is None or space.type != "IMAGE_EDITOR":
            bpy.ops.paint.texture_paint_toggle()
        elif start:
            space.image = settings.mask
            space.ui_mode = "PAINT"
        else:
            space.ui_mode = "VIEW"
            with contextlib.suppress(InpaintError):
                space.image = repair.locate_image(active_material(context), settings.image)[0]
        if start:
            # Only now: a paint mode brings its brush along.
            make_paintable(settings.mask, context.tool_settings)
        return {"FINISHED"}


class NORMALINPAINT_OT_compare(bpy.types.Operator):
    """Switch the material between the repaired map and the one before."""

    bl_idname = "normal_inpaint.compare"
    bl_label = "Before / After"
    bl_description = "Switch the material between the repaired map and the one before"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Reads state only: the material must show a result or its source."""
        if current_pair(context) is None:
            cls.poll_message_set("The active material shows no repaired map yet")
            return False
        return True

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback."""
        pair = current_pair(context)
        if pair is None or not nodes.editable(pair.tree):
            self.report({"ERROR"}, "The material is linked from another file and cannot be changed.")
            return {"CANCELLED"}
        leave_painting()
        if pair.shows_source:
            nodes.show_result(pair)
        else:
            nodes.show_source(pair)
        redraw()
        return {"FINISHED"}


class _Saving(JobOperator):
    """What the two operators below share."""

    filepath: bpy.props.StringProperty(name="File", description="Where to save it", subtype="FILE_PATH")
    image: bpy.props.StringProperty(
        name="Image", description="Which result to save; empty: the one in view", options={"HIDDEN"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Reads state only: no job running."""
        return jobs.running() is None

    def _image(self, context: bpy.types.Context) -> bpy.types.Image:
        image = bpy.data.images.get(self.image) if self.image else current_result(context)
        if image is None:
            raise InpaintError(
                "no_pixels", "There is no repaired map to save.", "Click Inpaint first, or choose a result."
            )
        return image

    def start(
        self, context: bpy.types.Context
    ) -> tuple[Callable[[Progress, Cancel], Any], Callable[[Any], str]]:
        """See `JobOperator.start`."""
        if not self.filepath:
            raise InpaintError("not_writable", "No file was named to save to.", "Set the file path.")
        task = save.prepare(self._image(context), Path(bpy.path.abspath(self.filepath)))
        return task.work, task.finish


class NORMALINPAINT_OT_save_result(_Saving, bpy.types.Operator):
    """Save the repaired map with the type and depth of its source; outside the mask bit for bit the same."""

    bl_idname = "normal_inpaint.save_result"
    bl_label = "Save Result"
    bl_description = (
        "Save the repaired map with the type and depth of its source; outside the mask bit for bit the same"
    )

    check_existing: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Blender's callback for a click: ask for the file first."""
        try:
            image = self._image(context)
            if not self.filepath:
                self.filepath = str(save.suggested_path(image))
        except InpaintError as error:
            return self._fail(error)
        self.image = image.name
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback, in a window after the file was chosen."""
        if bpy.app.background or not self.options.is_invoke:
            return super().execute(context)
        # Blender frees an operator right after its file was chosen, so it cannot turn modal itself.
        cast(Any, bpy.ops).normal_inpaint.write_result(
            "INVOKE_DEFAULT", filepath=self.filepath, image=self.image
        )
        return {"FINISHED"}


class NORMALINPAINT_OT_write_result(_Saving, bpy.types.Operator):
    """Write the repaired map to a file that is already chosen."""

    bl_idname = "normal_inpaint.write_result"
    bl_label = "Write Result"
    bl_description = "Write the repaired map to a file that is already chosen"
    bl_options = {"INTERNAL"}


class NORMALINPAINT_OT_test_engine(JobOperator, bpy.types.Operator):
    """Start the engine as it is set here and show which one answers, on what device."""

    bl_idname = "normal_inpaint.test_engine"
    bl_label = "Test Engine"
    bl_description = "Start the engine as it is set here and show which one answers, on what device"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only while no job runs."""
        return jobs.running() is None

    def start(
        self, context: bpy.types.Context
    ) -> tuple[Callable[[Progress, Cancel], Any], Callable[[Any], str]]:
        """See `JobOperator.start`."""
        options = preferences.worker_options()

        def work(progress: Progress, cancel: Cancel) -> list[str]:
            progress(0.0, "Starting the engine")
            client = jobs.client_for(options)
            client.ensure_started(cancel)
            return client.take_notices()

        def after(notices: list[str]) -> str:
            jobs.state.notices = notices
            return f"Engine: {jobs.engine_status()}."

        return work, after


class NORMALINPAINT_OT_open_log(bpy.types.Operator):
    """Open the engine's log file."""

    bl_idname = "normal_inpaint.open_log"
    bl_label = "Open Log"
    bl_description = "Open the engine's log file"

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blender's callback."""
        path = preferences.log_path()
        if not path.is_file():
            self.report({"INFO"}, "There is no log yet: the engine has not been started.")
            return {"CANCELLED"}
        if bpy.app.background:
            print(path.read_text(encoding="utf-8", errors="replace"), file=sys.stderr)
        else:
            bpy.ops.wm.path_open(filepath=str(path))
        return {"FINISHED"}


CLASSES = (
    NORMALINPAINT_OT_inpaint,
    NORMALINPAINT_OT_cancel,
    NORMALINPAINT_OT_new_mask,
    NORMALINPAINT_OT_paint_mask,
    NORMALINPAINT_OT_compare,
    NORMALINPAINT_OT_save_result,
    NORMALINPAINT_OT_write_result,
    NORMALINPAINT_OT_test_engine,
    NORMALINPAINT_OT_open_log,
)
