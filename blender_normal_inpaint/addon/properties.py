"""What the user sets: per scene, saved with the file.

No postponed annotations here: Blender reads properties from them.
"""

from typing import Any, cast

import bpy


class NORMALINPAINT_settings(bpy.types.PropertyGroup):
    """The panel's settings."""

    image: bpy.props.PointerProperty(
        type=bpy.types.Image,
        name="Normal Map",
        description="The normal map to repair; empty: the one of the active material",
    )
    mask: bpy.props.PointerProperty(
        type=bpy.types.Image,
        name="Mask",
        description="White where the normal map is to be repaired; painted, unsaved pixels count",
    )
    valid: bpy.props.PointerProperty(
        type=bpy.types.Image,
        name="Valid Area",
        description="White where the map shows skin, black in the background and in gaps between UV "
        "islands; empty: worked out from mesh and map (black, grey or transparent texels are no skin)",
    )
    space: bpy.props.EnumProperty(
        name="Space",
        description="What the vectors of the map are relative to",
        items=(
            ("AUTO", "Automatic", "From the Normal Map node; tangent where there is none"),
            ("TANGENT", "Tangent", "Relative to the surface: mostly blue"),
            ("OBJECT", "Object", "Relative to the object's axes"),
            ("CAMERA", "Camera", "Relative to the view, as a light stage or a renderer gives it"),
        ),
        default="AUTO",
    )
    green: bpy.props.EnumProperty(
        name="Green",
        description="Which way more green means",
        items=(
            ("AUTO", "Automatic", "From the nodes between the image and the material; else OpenGL"),
            ("OPENGL", "OpenGL (Up)", "Green is up: Blender's own convention"),
            ("DIRECTX", "DirectX (Down)", "Green is down"),
        ),
        default="AUTO",
    )
    up_axis: bpy.props.EnumProperty(
        name="Up Axis",
        description="Of object-space maps: which axis points to the top of the head",
        items=(
            ("Z", "Z", "Blender's own axes: Z up, the face towards -Y"),
            ("Y", "Y", "Y up, the face towards +Z, as many other programs bake"),
        ),
        default="Z",
    )
    two_channel: bpy.props.BoolProperty(
        name="Two Channels",
        description="The map stores only red and green (BC5): blue is worked out from them",
    )
    grow: bpy.props.IntProperty(
        name="Grow Mask",
        description="Texels by which the mask is widened before the repair",
        min=0,
        max=256,
        subtype="PIXEL",
    )
    detail: bpy.props.BoolProperty(
        name="Fine Detail",
        description="Continue the fine structure of the skin around the hole into it",
        default=True,
    )
    symmetry: bpy.props.BoolProperty(
        name="Symmetry",
        description="Let the face's other half tell what is hidden, where both halves are alike. "
        "Turn it off if a scar or a mole comes over from there",
        default=True,
    )
    mesh: bpy.props.BoolProperty(
        name="Mesh",
        description="Let the mesh that wears the map tell where it shows skin and where its other half is "
        "and, in object space, show what is hidden. Turn it off if the map is of another mesh or UV map",
        default=True,
    )
    seed: bpy.props.IntProperty(name="Seed", description="Another number gives other fine detail", min=0)


class NORMALINPAINT_image(bpy.types.PropertyGroup):
    """What an image made here remembers."""

    file_format: bpy.props.StringProperty(
        name="File Format", description="Type and depth of the file that this result was made from"
    )
    file_path: bpy.props.StringProperty(name="File", description="The file that this result was made from")
    is_mask: bpy.props.BoolProperty(
        name="Mask", description="Made by New Mask: packed when the file is saved, so that paint is kept"
    )


CLASSES = (NORMALINPAINT_settings, NORMALINPAINT_image)


def settings_of(scene: bpy.types.Scene | None) -> NORMALINPAINT_settings:
    """The panel's settings in a scene."""
    return cast(NORMALINPAINT_settings, cast(Any, scene).normal_inpaint)


def memory_of(image: bpy.types.Image) -> NORMALINPAINT_image:
    """What an image remembers."""
    return cast(NORMALINPAINT_image, cast(Any, image).normal_inpaint)


def attach() -> None:
    """Hang the groups on Blender's types."""
    cast(Any, bpy.types.Scene).normal_inpaint = bpy.props.PointerProperty(type=NORMALINPAINT_settings)
    cast(Any, bpy.types.Image).normal_inpaint = bpy.props.PointerProperty(type=NORMALINPAINT_image)


def detach() -> None:
    """Take them away again; what was set stays in the file."""
    del cast(Any, bpy.types.Image).normal_inpaint
    del cast(Any, bpy.types.Scene).normal_inpaint
