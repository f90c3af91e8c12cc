"""The panel: the same three steps in the sidebar of the three editors."""

import textwrap
from typing import Any, cast

import bpy

from ..core.errors import InpaintError
from . import jobs, operators, repair
from .properties import NORMALINPAINT_settings, settings_of

_TAB = "Normal Inpaint"


def _wrapped(layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: Any = "NONE") -> None:
    """A sentence as labels that fit the sidebar."""
    scale = context.preferences.system.ui_scale
    room = context.region.width - (70 if icon != "NONE" else 45) * scale
    width = max(16, int(room / (6.7 * scale)))
    column = layout.column(align=True)
    for index, line in enumerate(textwrap.wrap(text, width)):
        # Under a first line with an icon the others start where its text does.
        column.label(text=line, icon=icon if index == 0 or icon == "NONE" else "BLANK1")


class _Main:
    bl_region_type = "UI"
    bl_category = _TAB
    bl_label = "Normal Inpaint"

    def draw(self, context: bpy.types.Context) -> None:
        """Blender's draw callback."""
        layout: bpy.types.UILayout = cast(Any, self).layout
        settings = settings_of(context.scene)
        self._draw_map(layout.column(), context, settings)
        job = jobs.running()
        column = layout.column()
        column.enabled = job is None
        column.label(text="1. Mask: white = repair", icon="MOD_MASK")
        row = column.row(align=True)
        row.prop(settings, "mask", text="")
        row.operator("normal_inpaint.new_mask", text="", icon="ADD")
        column.label(text="2. Paint the damage white", icon="BRUSH_DATA")
        self._draw_paint(column, context)
        column.label(text="3. Repair", icon="SHADERFX")
        if job is None:
            row = column.row()
            row.scale_y = 1.5
            row.operator("normal_inpaint.inpaint", icon="SHADERFX")
        else:
            fraction, text = job.progress()
            row = layout.row(align=True)
            row.progress(factor=fraction, text=f"{text}: {fraction * 100:.0f} %")
            row.operator("normal_inpaint.cancel", text="", icon="X")
        self._draw_message(layout, context)
        column = layout.column(align=True)
        column.enabled = job is None
        pair = operators.current_pair(context)
        before = pair is not None and pair.shows_source
        text = "Show After" if before else "Show Before" if pair is not None else "Before / After"
        column.operator("normal_inpaint.compare", text=text, icon="ARROW_LEFTRIGHT", depress=before)
        row = column.row(align=True)
        row.enabled = operators.current_result(context) is not None
        row.operator("normal_inpaint.save_result", text="Save Result...", icon="FILE_TICK")

    def _draw_map(
        self, layout: bpy.types.UILayout, context: bpy.types.Context, settings: NORMALINPAINT_settings
    ) -> None:
        layout.label(text="Normal map", icon="NORMALS_FACE")
        layout.prop(settings, "image", text="")
        material = operators.active_material(context)
        try:
            image, found = repair.locate_image(material, settings.image)
        except InpaintError as error:
            _wrapped(layout, context, str(error), "INFO")
            return
        if settings.image is None:
            name = material.name if material is not None else ""
            _wrapped(layout, context, f'"{image.name}" of material "{name}"', "CHECKMARK")
        elif found is None:
            _wrapped(layout, context, "No material shows it: the result will only be a new image.", "INFO")

    def _draw_paint(self, layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
        kind = context.space_data.type
        if kind == "NODE_EDITOR":
            _wrapped(layout, context, "3D Viewport or Image Editor", "BLANK1")
            return
        painting = operators.painting_mask(context)
        text = "Paint on the Model" if kind == "VIEW_3D" else "Paint on the Map"
        layout.operator(
            "normal_inpaint.paint_mask", text="Stop Painting" if painting else text, depress=painting
        )

    def _draw_message(self, layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
        error = jobs.state.error
        if error is not None:
            box = layout.box()
            _wrapped(box, context, error.message, "ERROR")
            _wrapped(box, context, error.hint, "BLANK1")
            if error.detail:
                box.operator("normal_inpaint.open_log", icon="TEXT")
        elif jobs.state.summary and operators.still_there(jobs.state.made):
            box = layout.box()
            _wrapped(box, context, jobs.state.summary, "CHECKMARK")
            for notice in jobs.state.notices:
                _wrapped(box, context, notice, "INFO")


class _Settings:
    bl_region_type = "UI"
    bl_category = _TAB
    bl_label = "Settings"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        """Blender's draw callback."""
        layout: bpy.types.UILayout = cast(Any, self).layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = settings_of(context.scene)
        column = layout.column()
        column.prop(settings, "space")
        column.prop(settings, "green")
        row = column.row()
        row.active = settings.space in {"AUTO", "OBJECT"}
        row.prop(settings, "up_axis")
        column.prop(settings, "two_channel")
        column = layout.column()
        column.prop(settings, "valid")
        column.prop(settings, "grow")
        column.prop(settings, "symmetry")
        row = column.row()
        row.active = settings.space != "CAMERA"
        row.prop(settings, "mesh")
        column.prop(settings, "detail")
        row = column.row()
        row.active = settings.detail
        row.prop(settings, "seed")
        _wrapped(layout, context, f"Engine: {jobs.engine_status()}", "INFO")


class _ShaderOnly:
    bl_space_type = "NODE_EDITOR"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Only where materials are edited."""
        return getattr(context.space_data, "tree_type", "") == "ShaderNodeTree"


class NORMALINPAINT_PT_shader(_ShaderOnly, _Main, bpy.types.Panel):
    """In the Shader Editor."""


class NORMALINPAINT_PT_shader_settings(_ShaderOnly, _Settings, bpy.types.Panel):
    """In the Shader Editor."""

    bl_parent_id = "NORMALINPAINT_PT_shader"


class NORMALINPAINT_PT_image(_Main, bpy.types.Panel):
    """In the Image Editor."""

    bl_space_type = "IMAGE_EDITOR"


class NORMALINPAINT_PT_image_settings(_Settings, bpy.types.Panel):
    """In the Image Editor."""

    bl_space_type = "IMAGE_EDITOR"
    bl_parent_id = "NORMALINPAINT_PT_image"


class NORMALINPAINT_PT_view(_Main, bpy.types.Panel):
    """In the 3D Viewport."""

    bl_space_type = "VIEW_3D"


class NORMALINPAINT_PT_view_settings(_Settings, bpy.types.Panel):
    """In the 3D Viewport."""

    bl_space_type = "VIEW_3D"
    bl_parent_id = "NORMALINPAINT_PT_view"


CLASSES = (
    NORMALINPAINT_PT_shader,
    NORMALINPAINT_PT_shader_settings,
    NORMALINPAINT_PT_image,
    NORMALINPAINT_PT_image_settings,
    NORMALINPAINT_PT_view,
    NORMALINPAINT_PT_view_settings,
)
