"""What is tried inside Blender. Plain functions with asserts; see `inside`."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import numpy as np

# Material.use_nodes is deprecated in newer Blenders, where it is always on.
warnings.filterwarnings("ignore", category=DeprecationWarning)

MODULE = "bl_ext.user_default.normal_inpaint"
HEIGHT, WIDTH = 96, 128


def addon(name: str) -> Any:
    """A module of the installed extension."""
    return __import__(f"{MODULE}.addon.{name}", fromlist=["_"])


# Building scenes --------------------------------------------------------------------------------------


def normals(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Waves in tangent space, (H, W, 3), unit, top row first."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    slopes = np.stack([0.35 * np.sin(x / 9 + y / 21), 0.3 * np.cos(y / 11)], axis=-1)
    vectors = np.concatenate([slopes, np.ones((height, width, 1), np.float32)], axis=-1)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def image_from(values: np.ndarray, name: str = "face", *, deep: bool = True) -> bpy.types.Image:
    """A generated Non-Color image with these colours (H, W, 3 or 4), top row first."""
    height, width, _channels = values.shape
    image = bpy.data.images.new(name, width, height, alpha=True, float_buffer=deep, is_data=True)
    write(image, values)
    return image


def write(image: bpy.types.Image, values: np.ndarray) -> None:
    height, width, channels = values.shape
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :channels] = values
    image.pixels.foreach_set(np.ascontiguousarray(pixels[::-1]).ravel())
    image.update()


def read(image: bpy.types.Image) -> np.ndarray:
    width, height = image.size
    buffer = np.empty(width * height * 4, np.float32)
    image.pixels.foreach_get(buffer)
    return buffer.reshape(height, width, 4)[::-1]


def normal_image(name: str = "face", *, deep: bool = True) -> bpy.types.Image:
    return image_from(normals() * 0.5 + 0.5, name, deep=deep)


def box_mask(height: int = HEIGHT, width: int = WIDTH, name: str = "mask") -> bpy.types.Image:
    values = np.zeros((height, width, 3), np.float32)
    values[height // 3 : height // 2, width // 3 : width // 2] = 1.0
    return image_from(values, name, deep=False)


def new_material(name: str = "skin") -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    return material


def simple_scene(image: bpy.types.Image | None = None, mask: bpy.types.Image | None = None) -> Any:
    """An object whose material shows the image through a Normal Map node: (tree, texture, normal map)."""
    image = image or normal_image()
    material = new_material()
    tree = material.node_tree
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image = image
    node = tree.nodes.new("ShaderNodeNormalMap")
    tree.links.new(texture.outputs["Color"], node.inputs["Color"])
    tree.links.new(node.outputs["Normal"], shader(tree).inputs["Normal"])
    activate(material)
    settings().mask = mask or box_mask(image.size[1], image.size[0])
    return tree, texture, node


def shader(tree: bpy.types.NodeTree) -> bpy.types.Node:
    return next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")


def activate(material: bpy.types.Material) -> None:
    mesh = bpy.data.meshes.new("head")
    mesh.materials.append(material)
    thing = bpy.data.objects.new("head", mesh)
    bpy.context.scene.collection.objects.link(thing)
    bpy.context.view_layer.objects.active = thing


def settings() -> Any:
    return bpy.context.scene.normal_inpaint


def clear() -> None:
    """An empty file: only scenes stay, without our settings."""
    for name in ("objects", "meshes", "materials", "images", "node_groups"):
        collection = getattr(bpy.data, name)
        for item in list(collection):
            collection.remove(item)
    for name in settings().bl_rna.properties.keys():  # noqa: SIM118 - not a dict
        if name not in ("rna_type", "name"):
            settings().property_unset(name)


def links(tree: bpy.types.NodeTree) -> set[tuple[str, str, str, str]]:
    return {
        (link.from_node.name, link.from_socket.identifier, link.to_node.name, link.to_socket.identifier)
        for link in tree.links
    }


def snapshot() -> Any:
    """Everything a failed repair could have changed."""
    trees = [item.node_tree for item in bpy.data.materials] + list(bpy.data.node_groups)
    return (
        sorted((image.name, image.users, image.colorspace_settings.name) for image in bpy.data.images),
        [(sorted(node.name for node in tree.nodes), sorted(links(tree))) for tree in trees],
        sorted(item.name for item in bpy.data.node_groups),
    )


def fails(call: Callable[[], Any], *words: str) -> str:
    """The call must raise an error that holds the words, and change nothing."""
    before = snapshot()
    try:
        result = call()
    except (RuntimeError, ValueError) as error:
        text = str(error)
    except Exception as error:
        text = f"{getattr(error, 'code', '')}: {error}"
        if not hasattr(error, "code"):
            raise
    else:
        raise AssertionError(f"no error but {result}; expected {words}")
    for word in words:
        assert word.lower() in text.lower(), (word, text)
    assert snapshot() == before, "a failure changed something"
    assert addon("jobs").running() is None
    return text


def inpaint() -> Any:
    assert bpy.ops.normal_inpaint.inpaint() == {"FINISHED"}


def worker_pid() -> int:
    return int(addon("jobs").state.client.hello.pid)


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process has ended (a zombie has)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            stat = Path(f"/proc/{pid}/stat")
            if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


# Scenarios --------------------------------------------------------------------------------------------


def registration(work: Path) -> None:
    """Register again and again; one prefix; nothing of Blender's process or our folder is touched."""
    assert "onnxruntime" not in sys.modules and "OpenImageIO" not in sys.modules
    package = sys.modules[MODULE]
    folder = Path(package.__file__).parent

    def listing() -> dict[str, int]:
        files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {str(path): path.stat().st_mtime_ns for path in files}

    before_files, before_path = listing(), list(sys.path)
    for _ in range(2):
        package.unregister()
        assert not hasattr(bpy.types.Scene, "normal_inpaint")
        assert "normal_inpaint" not in dir(bpy.ops) or not dir(bpy.ops.normal_inpaint)
        package.register()
    bpy.ops.preferences.addon_disable(module=MODULE)
    bpy.ops.preferences.addon_enable(module=MODULE)
    for item in addon("registration").CLASSES:
        assert item.__name__.startswith("NORMALINPAINT_"), item
        if issubclass(item, bpy.types.Operator):
            assert item.bl_idname.startswith("normal_inpaint."), item
            assert item.bl_description and not item.bl_description.endswith("."), item
        if issubclass(item, bpy.types.Panel):
            assert item.bl_category == "Normal Inpaint", item
    _tree, _texture, _node = simple_scene()
    inpaint()
    assert listing() == before_files, "something was written in the extension's folder"
    assert "onnxruntime" not in sys.modules and "OpenImageIO" not in sys.modules
    assert sys.path == before_path
    log = addon("preferences").log_path()
    assert log.is_file() and folder not in log.parents, log


def wiring(work: Path) -> None:
    """The map is found behind reroutes, groups and green flips, and the result takes its place."""
    tree, texture, node = simple_scene()
    # Beside the source, with its settings and its input.
    coordinates = tree.nodes.new("ShaderNodeUVMap")
    tree.links.new(coordinates.outputs[0], texture.inputs["Vector"])
    texture.interpolation, texture.extension, texture.projection = "Cubic", "EXTEND", "BOX"
    texture.projection_blend = 0.25
    texture.texture_mapping.scale = (2.0, 3.0, 4.0)
    other = tree.nodes.new("ShaderNodeNormalMap")
    tree.links.new(texture.outputs["Color"], other.inputs["Color"])
    before = links(tree)
    inpaint()
    result = node.inputs["Color"].links[0].from_node
    assert result != texture and result.image.name == "face_inpainted"
    assert other.inputs["Color"].links[0].from_node == result
    assert result.inputs["Vector"].links[0].from_node == coordinates
    assert (result.interpolation, result.extension, result.projection) == ("Cubic", "EXTEND", "BOX")
    assert abs(result.projection_blend - 0.25) < 1e-6
    assert tuple(result.texture_mapping.scale) == (2.0, 3.0, 4.0)
    assert texture.image.name == "face" and texture.inputs["Vector"].is_linked
    image = result.image
    assert image.is_float and image.colorspace_settings.name == "Non-Color"
    assert image.packed_file is not None and tuple(image.size) == (WIDTH, HEIGHT)
    # Comparing goes back and forth, exactly.
    repaired = links(tree)
    assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
    assert links(tree) - {("UV Map", "UV", result.name, "Vector")} == before
    assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
    assert links(tree) == repaired
    # Renamed nodes are found all the same; what the source feeds besides stays with it.
    aside = tree.nodes.new("ShaderNodeEmission")
    tree.links.new(texture.outputs["Color"], aside.inputs["Color"])
    assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
    texture.name, result.name, node.name = "the old one", "the new one", "bumps"
    assert node.inputs["Color"].links[0].from_node == texture
    assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
    assert node.inputs["Color"].links[0].from_node == result
    assert other.inputs["Color"].links[0].from_node == result
    assert aside.inputs["Color"].links[0].from_node == texture
    tree.nodes.remove(aside)
    # The second click repairs the result.
    inpaint()
    second = node.inputs["Color"].links[0].from_node
    assert second.image.name == "face_inpainted.001", second.image.name
    assert result.image.name == "face_inpainted"
    clear()

    # Names with an ending, and as long as they get.
    for name, wanted in (("skin normal.png", "skin normal_inpainted"), ("é" * 40, None)):
        tree, texture, node = simple_scene(normal_image(name))
        inpaint()
        made = node.inputs["Color"].links[0].from_node.image.name
        assert made.endswith("_inpainted") and wanted in (None, made), made
        clear()

    _groups()
    _green_flips()

    # A node that cannot be followed is named; a choice by hand helps.
    tree, texture, node = simple_scene()
    mix = tree.nodes.new("ShaderNodeGamma")
    mix.label = "Strange"
    tree.links.new(texture.outputs["Color"], mix.inputs[0])
    tree.links.new(mix.outputs[0], node.inputs["Color"])
    fails(bpy.ops.normal_inpaint.inpaint, "Strange", "by hand")
    settings().image = texture.image
    inpaint()
    assert mix.inputs[0].links[0].from_node.image.name == "face_inpainted"
    assert settings().image.name == "face_inpainted"
    # The map chosen by hand can be compared too, and a repair of what is not shown at present is shown.
    assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
    assert mix.inputs[0].links[0].from_node == texture
    inpaint()
    assert mix.inputs[0].links[0].from_node.image.name == "face_inpainted.001"
    clear()

    # An image that no material shows becomes a new image and nothing else.
    settings().image, settings().mask = normal_image("loose"), box_mask()
    inpaint()
    assert bpy.data.images["loose_inpainted"].use_fake_user
    assert any("not connected" in notice for notice in addon("jobs").state.notices)


def _groups() -> None:
    inner = bpy.data.node_groups.new("inner", "ShaderNodeTree")
    inner.interface.new_socket("Map", in_out="OUTPUT", socket_type="NodeSocketColor")
    texture = inner.nodes.new("ShaderNodeTexImage")
    texture.image = normal_image("grouped")
    end = inner.nodes.new("NodeGroupOutput")
    inner.links.new(texture.outputs["Color"], end.inputs["Map"])
    outer = bpy.data.node_groups.new("outer", "ShaderNodeTree")
    outer.interface.new_socket("Map", in_out="INPUT", socket_type="NodeSocketColor")
    outer.interface.new_socket("Normal", in_out="OUTPUT", socket_type="NodeSocketVector")
    start, stop = outer.nodes.new("NodeGroupInput"), outer.nodes.new("NodeGroupOutput")
    node = outer.nodes.new("ShaderNodeNormalMap")
    bend = outer.nodes.new("NodeReroute")
    outer.links.new(start.outputs["Map"], bend.inputs[0])
    outer.links.new(bend.outputs[0], node.inputs["Color"])
    outer.links.new(node.outputs["Normal"], stop.inputs["Normal"])
    material = new_material()
    tree = material.node_tree
    first, second = tree.nodes.new("ShaderNodeGroup"), tree.nodes.new("ShaderNodeGroup")
    first.node_tree, second.node_tree = inner, outer
    muted = tree.nodes.new("ShaderNodeGamma")
    muted.mute = True
    tree.links.new(first.outputs["Map"], muted.inputs["Color"])
    tree.links.new(muted.outputs["Color"], second.inputs["Map"])
    tree.links.new(second.outputs["Normal"], shader(tree).inputs["Normal"])
    activate(material)
    settings().mask = box_mask()
    inpaint()
    assert end.inputs["Map"].links[0].from_node.image.name == "grouped_inpainted"
    assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
    assert end.inputs["Map"].links[0].from_node == texture
    clear()


def _green_flips() -> None:
    find = addon("nodes").find
    tree, texture, node = simple_scene()
    material = bpy.context.view_layer.objects.active.active_material
    assert find(material).y_axis == "up"
    apart, together = tree.nodes.new("ShaderNodeSeparateColor"), tree.nodes.new("ShaderNodeCombineColor")
    minus = tree.nodes.new("ShaderNodeMath")
    minus.operation = "SUBTRACT"
    minus.inputs[0].default_value = 1.0
    tree.links.new(texture.outputs["Color"], apart.inputs[0])
    for index in (0, 2):
        tree.links.new(apart.outputs[index], together.inputs[index])
    tree.links.new(apart.outputs[1], minus.inputs[1])
    tree.links.new(minus.outputs[0], together.inputs[1])
    tree.links.new(together.outputs[0], node.inputs["Color"])
    assert find(material).y_axis == "down"
    inpaint()
    assert apart.inputs[0].links[0].from_node.image.name == "face_inpainted"
    invert = tree.nodes.new("ShaderNodeInvert")
    tree.links.new(apart.outputs[1], invert.inputs["Color"])
    tree.links.new(invert.outputs[0], together.inputs[1])
    assert find(material).y_axis == "down"
    curves = tree.nodes.new("ShaderNodeRGBCurve")
    green = curves.mapping.curves[1]
    green.points[0].location, green.points[1].location = (0.0, 1.0), (1.0, 0.0)
    curves.mapping.update()
    tree.links.new(texture.outputs["Color"], curves.inputs["Color"])
    tree.links.new(curves.outputs["Color"], node.inputs["Color"])
    assert find(material).y_axis == "down"
    if "convention" in node.bl_rna.properties:
        node.convention = "DIRECTX"
        assert find(material).y_axis == "up"
        tree.links.new(texture.outputs["Color"], node.inputs["Color"])
        assert find(material).y_axis == "down"
    clear()


def spaces(work: Path) -> None:
    """The declared space and green direction reach the core, and mean what they say."""
    repair = addon("repair")
    _, _, node = simple_scene()
    material = bpy.context.view_layer.objects.active.active_material
    mask = settings().mask

    def encoding(**choices: Any) -> Any:
        return repair.prepare(material, None, mask, None, repair.Choices(**choices)).encoding

    assert (encoding().space, encoding().y_axis) == ("tangent", "up")
    node.space = "OBJECT"
    assert (encoding().space, encoding().up_axis) == ("object", "z")
    assert encoding(up_axis="Y").up_axis == "y"
    assert encoding(space="CAMERA", green="DIRECTX").y_axis == "down"
    node.space = "BLENDER_OBJECT"
    fails(bpy.ops.normal_inpaint.inpaint, "Blender Object Space", "by hand")
    assert encoding(space="TANGENT").space == "tangent"
    clear()

    # A DirectX map is the OpenGL one with its green turned round: so is its result, up to 16-bit steps.
    simple_scene()
    inpaint()
    opengl = read(bpy.data.images["face_inpainted"])
    clear()
    flipped = normals() * 0.5 + 0.5
    flipped[..., 1] = 1.0 - flipped[..., 1]
    simple_scene(image_from(flipped))
    settings().green = "DIRECTX"
    inpaint()
    directx = read(bpy.data.images["face_inpainted"])
    directx[..., 1] = 1.0 - directx[..., 1]
    assert np.abs(directx - opengl).max() < 1e-3, np.abs(directx - opengl).max()
    clear()

    # An object-space map with Z up is the Y-up one with its axes renamed.
    vectors = normals()
    renamed = np.stack([vectors[..., 0], -vectors[..., 2], vectors[..., 1]], axis=-1)
    results = []
    for values, up_axis in ((vectors, "Y"), (renamed, "Z")):
        _tree, _texture, node = simple_scene(image_from(values * 0.5 + 0.5))
        node.space = "OBJECT"
        settings().up_axis = up_axis
        inpaint()
        results.append(read(bpy.data.images["face_inpainted"])[..., :3] * 2 - 1)
        clear()
    back = np.stack([results[1][..., 0], results[1][..., 2], -results[1][..., 1]], axis=-1)
    assert np.abs(back - results[0]).max() < 2e-3, np.abs(back - results[0]).max()

    for space in ("OBJECT", "CAMERA"):
        _tree, _texture, node = simple_scene()
        settings().space = space
        inpaint()
        length = np.linalg.norm(read(bpy.data.images["face_inpainted"])[..., :3] * 2 - 1, axis=-1)
        assert np.abs(length - 1).max() < 1e-3
        clear()


def _dome(cells: int, height: float) -> bpy.types.Mesh:
    """A smooth dome with a nose on it, the more so the higher, and two UV maps."""
    at = np.linspace(-1, 1, cells + 1)
    x, z = (axis.ravel() for axis in np.meshgrid(at, at))
    y = height * (0.5 * (x**2 + z**2) - 0.3 * np.exp(-(x**2 + z**2) / 0.06))
    first = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    faces = np.stack([first, first + 1, first + cells + 2, first + cells + 1], axis=1)
    mesh = bpy.data.meshes.new("head")
    mesh.from_pydata(np.stack([x, y, z], axis=1).tolist(), [], faces.tolist())
    mesh.shade_smooth()
    places = np.stack([x, z], axis=1)[faces.ravel()] * 0.46 + 0.5
    for name, uv in (("Layout", places), ("Other", places * 0.1)):
        mesh.uv_layers.new(name=name).uv.foreach_set("vector", uv.astype(np.float32).ravel())
    return mesh


def _dressed(mesh: bpy.types.Mesh, image: bpy.types.Image, hole: bpy.types.Image) -> Any:
    """An object with a mesh that wears an object-space map and its mask; and the map's texture node."""
    _tree, texture, node = simple_scene(image, hole)
    node.space = "OBJECT"
    thing = bpy.context.view_layer.objects.active
    material = thing.active_material
    thing.data = mesh
    mesh.materials.clear()
    mesh.materials.append(None)
    mesh.materials.append(material)
    mesh.polygons.foreach_set("material_index", np.ones(len(mesh.polygons), np.int32))
    thing.active_material_index = 1
    thing.select_set(True)
    texture.select = True
    material.node_tree.nodes.active = texture
    return thing, texture


def base_mesh(work: Path) -> None:
    """The mesh that wears an object-space map shows what it hides, or a notice says why not."""
    api = addon("api")
    size = 128
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 1
    scene.render.bake.normal_space = "OBJECT"

    def dressed(mesh: bpy.types.Mesh, image: bpy.types.Image) -> Any:
        return _dressed(mesh, image, hole)

    def baked(mesh: bpy.types.Mesh) -> np.ndarray:
        image = bpy.data.images.new("baked", size, size, float_buffer=True, is_data=True)
        thing, _texture = dressed(mesh, image)
        spare = bpy.data.materials.new("spare")
        spare.use_nodes = True
        node = spare.node_tree.nodes.new("ShaderNodeTexImage")
        node.image = image
        spare.node_tree.nodes.active = node
        for slot in thing.material_slots:
            slot.material = spare
        mesh.uv_layers.active = mesh.uv_layers["Layout"]
        bpy.ops.object.bake(type="NORMAL")
        return read(image)[..., :3]

    round_hole = np.zeros((size, size, 3), np.float32)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    inside = np.hypot(y, x) < 24
    round_hole[inside] = 1
    hole = image_from(round_hole, "hole", deep=False)
    truth = baked(_dome(48, 1.0))
    assert np.abs(np.linalg.norm(truth * 2 - 1, axis=-1)[4:-4, 4:-4] - 1).max() < 0.02
    damaged = truth.copy()
    damaged[inside] = 0.5

    def fresh(height: float = 1.0) -> Any:
        nonlocal hole
        clear()
        hole = image_from(round_hole, "hole", deep=False)
        return dressed(_dome(48, height), image_from(damaged, "face"))

    def off(image: bpy.types.Image) -> float:
        cosine = ((read(image)[..., :3] * 2 - 1) * (truth * 2 - 1)).sum(axis=-1)
        return float(np.degrees(np.arccos(np.clip(cosine[inside], -1, 1))).mean())

    fresh()
    without = off(api.inpaint(detail=False, mesh=False))
    assert api.notices() == [] and without > 10, (without, api.notices())

    # By the panel's settings, and by a script that names the material alone.
    thing, _texture = fresh()
    places = [tuple(vertex.co) for vertex in thing.data.vertices]
    meshes = sorted(mesh.name for mesh in bpy.data.meshes)
    inpaint()
    assert off(bpy.data.images["face_inpainted"]) < 3, off(bpy.data.images["face_inpainted"])
    assert [tuple(vertex.co) for vertex in thing.data.vertices] == places
    assert sorted(mesh.name for mesh in bpy.data.meshes) == meshes
    assert addon("jobs").state.notices == []
    thing, _texture = fresh()
    material = thing.active_material
    bpy.context.view_layer.objects.active = None
    assert off(api.inpaint(material=material, detail=False)) < 3
    fresh()
    settings().mesh = False
    settings().detail = False
    inpaint()
    assert abs(off(bpy.data.images["face_inpainted"]) - without) < 1e-3

    # A UV Map node names the layout; without one it is the one that is rendered.
    thing, texture = fresh()
    thing.data.uv_layers["Other"].active_render = True
    assert abs(off(api.inpaint(detail=False)) - without) < 1e-3
    assert len(api.notices()) == 1 and "mesh was not used" in api.notices()[0], api.notices()
    thing, texture = fresh()
    thing.data.uv_layers["Other"].active_render = True
    tree = thing.active_material.node_tree
    uv = tree.nodes.new("ShaderNodeUVMap")
    uv.uv_map = "Layout"
    tree.links.new(uv.outputs["UV"], texture.inputs["Vector"])
    assert off(api.inpaint(detail=False)) < 3
    thing, texture = fresh()
    tree = thing.active_material.node_tree
    tree.links.new(tree.nodes.new("ShaderNodeTexCoord").outputs["UV"], texture.inputs["Vector"])
    assert off(api.inpaint(detail=False)) < 3
    thing, texture = fresh()
    tree = thing.active_material.node_tree
    tree.links.new(tree.nodes.new("ShaderNodeMapping").outputs["Vector"], texture.inputs["Vector"])
    assert abs(off(api.inpaint(detail=False)) - without) < 1e-3 and api.notices() == []

    # The mesh as it is edited counts as well as what modifiers make of it, whichever is like the map.
    thing, _texture = fresh()
    bend = thing.modifiers.new("Bend", "SIMPLE_DEFORM")
    bend.deform_method, bend.angle, bend.deform_axis = "BEND", 2.5, "Z"
    assert off(api.inpaint(detail=False)) < 3
    thing, _texture = fresh(0.1)
    scale = thing.modifiers.new("Raise", "WARP")
    plain, raised = (bpy.data.objects.new(name, None) for name in ("plain", "raised"))
    for empty in (plain, raised):
        scene.collection.objects.link(empty)
    raised.scale.y = 10
    scale.object_from, scale.object_to, scale.falloff_type = plain, raised, "NONE"
    bpy.context.view_layer.update()
    assert off(api.inpaint(detail=False)) < 3, api.notices()
    thing, _texture = fresh(0.1)
    assert off(api.inpaint(detail=False)) > 10
    assert len(api.notices()) == 1 and "degrees apart" in api.notices()[0], api.notices()

    # One that is too dense is not used, and that is said.
    fresh()
    addon("meshes").MOST, most = 1000, addon("meshes").MOST
    assert abs(off(api.inpaint(detail=False)) - without) < 1e-3
    addon("meshes").MOST = most
    assert len(api.notices()) == 1 and "triangles, and 1,000" in api.notices()[0], api.notices()

    # In tangent space it tells where skin is: a flat gap around it is not gone on with.
    tilted = np.zeros((size, size, 3), np.float32)
    tilted[:] = (0.8, 0.5, 0.9)
    island = np.abs(np.indices((size, size)) - (size - 1) / 2).max(axis=0) < 0.46 * size
    truth = np.where(island[..., None], tilted, np.float32([0.5, 0.5, 1]))
    inside = np.hypot(y + 0.46 * size, x) < 16
    edge = np.zeros((size, size, 3), np.float32)
    edge[inside] = 1
    errors = []
    for told in ("mesh", "two meshes", "nothing", "valid area"):
        clear()
        hole = image_from(edge, "hole", deep=False)
        mesh = _dome(48, 0.1)
        thing, texture = dressed(mesh, image_from(truth, "face"))
        thing.active_material.node_tree.nodes["Normal Map"].space = "TANGENT"
        if told == "two meshes":
            other = thing.copy()
            other.data = mesh.copy()
            scene.collection.objects.link(other)
            for worn, left in ((thing, True), (other, False)):
                slots = [0 if (polygon.center.x < 0) != left else 1 for polygon in worn.data.polygons]
                worn.data.polygons.foreach_set("material_index", slots)
        if told == "valid area":
            settings().valid = image_from(np.repeat(island[..., None], 3, axis=2) * 1.0, "skin", deep=False)
        result = api.inpaint(detail=False, mesh=told != "nothing", valid=settings().valid)
        errors.append(float(np.abs(read(result)[..., :3] - truth)[inside & island].mean()))
    assert max(errors[0], errors[1], errors[3]) < 0.003 and errors[2] > 0.009, errors
    clear()
    _cut_in_two(work)


def _cut_in_two(work: Path) -> None:
    """The mesh tells what goes on beyond a seam of the layout: both sides of a repair meet there.

    In one map, and where its halves are tiles.
    """
    size = 128
    v, u = 1 - (np.mgrid[:size, :size][0] + 0.5) / size, (np.mgrid[:size, :size][1] + 0.5) / size
    # The left half of the dome in the left half of the map, the right one turned upside down in the other.
    left = u < 0.5
    x, z = np.where(left, (u - 0.48) / 0.44, (0.96 - u) / 0.44), np.where(left, v - 0.5, 0.5 - v) / 0.46
    island = (x * np.where(left, -1, 1) >= 0) & (np.abs(x) <= 1) & (np.abs(z) <= 1)
    slopes = 0.4 * np.stack([np.cos(3 * x + 2 * z), np.sin(4 * x - 3 * z)], axis=-1)
    slopes[~left] *= -1
    normals = np.concatenate([slopes, np.ones((size, size, 1))], axis=-1)
    normals[~island] = (0, 0, 1)
    truth = (normals / np.linalg.norm(normals, axis=-1, keepdims=True) * 0.5 + 0.5).astype(np.float32)
    inside = np.repeat(((np.hypot(x, z) < 0.45) & island)[..., None], 3, axis=2)
    rows = np.flatnonzero(inside[:, 60, 0])
    skin = np.repeat(island[..., None], 3, axis=2) * 1.0

    def image_of(values: np.ndarray, name: str, tiled: bool) -> bpy.types.Image:
        if not tiled:
            return image_from(values, name, deep=name == "face")
        for number, half in (1001, values[:, : size // 2]), (1002, values[:, size // 2 :]):
            content = addon("png").encode(np.rint(half * 255).astype(np.uint8))
            (work / f"{name}.{number}.png").write_bytes(content)
        return _opened(work / f"{name}.<UDIM>.png")

    def apart(told: bool, tiled: bool) -> float:
        """Degrees between both sides of a repair."""
        clear()
        mesh = _dome(48, 0.3)
        corners = np.array([mesh.vertices[loop.vertex_index].co[:] for loop in mesh.loops])[:, [0, 2]]
        middles = np.repeat([polygon.center.x for polygon in mesh.polygons], 4)[:, None]
        places = np.where(
            middles < 0, corners * [0.44, 0.46] + [0.48, 0.5], [0.96, 0.5] - corners * [0.44, 0.46]
        )
        if tiled:
            places[:, 0] *= 2
        mesh.uv_layers["Layout"].uv.foreach_set("vector", places.astype(np.float32).ravel())
        thing, texture = _dressed(mesh, image_of(truth, "face", tiled), image_of(inside * 1.0, "hole", tiled))
        thing.active_material.node_tree.nodes["Normal Map"].space = "TANGENT"
        settings().valid = image_of(skin, "skin", tiled)
        image = addon("api").inpaint(detail=False, mesh=told, valid=settings().valid)
        pixels = [read(texture.image), read(image)]
        if tiled:
            saved = addon("api").save_result(image, work / f"met {told}.<UDIM>.png")
            pixels = [
                np.concatenate(
                    [
                        read(bpy.data.images.load(str(path).replace("<UDIM>", str(number))))
                        for number in (1001, 1002)
                    ],
                    axis=1,
                )
                for path in (work / "face.<UDIM>.png", saved)
            ]
        kept = inside[..., 0] == 0
        assert np.array_equal(pixels[0][kept], pixels[1][kept])
        one, two = (pixels[1][places][..., :3] * 2 - 1 for places in ((rows, 60), (size - 1 - rows, 122)))
        cosine = (
            (one * two * [-1, -1, 1]).sum(axis=-1)
            / np.linalg.norm(one, axis=-1)
            / np.linalg.norm(two, axis=-1)
        )
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())

    for tiled in (False, True):
        met, before = apart(True, tiled), apart(False, tiled)
        assert met < 0.25 * before, (tiled, met, before)
    clear()


def _changed() -> np.ndarray:
    before, after = read(bpy.data.images["face"]), read(bpy.data.images["face_inpainted"])
    return (before != after).any(axis=-1)


def painted_masks(work: Path) -> None:
    """Unsaved paint counts, in the mask and in the map; other sizes, valid area, growing."""
    box = np.zeros((HEIGHT, WIDTH), bool)
    box[HEIGHT // 3 : HEIGHT // 2, WIDTH // 3 : WIDTH // 2] = True

    # A mask on disk is black; the paint over it is unsaved.
    path = work / "mask.png"
    blank = bpy.data.images.new("blank", WIDTH, HEIGHT)
    blank.filepath_raw, blank.file_format = str(path), "PNG"
    blank.save()
    mask = bpy.data.images.load(str(path))
    values = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    values[box] = 1.0
    write(mask, values)
    assert mask.is_dirty
    simple_scene(mask=mask)
    inpaint()
    changed = _changed()
    assert changed[box].mean() > 0.9 and not changed[~box].any()
    assert mask.is_dirty, "the painted mask was touched"
    clear()

    # Half the size.
    simple_scene(mask=box_mask(HEIGHT // 2, WIDTH // 2))
    inpaint()
    changed = _changed()
    assert changed[box].mean() > 0.9 and not changed[~box].any()
    clear()

    # Grown by three texels, on all sides.
    simple_scene()
    settings().grow = 3
    inpaint()
    changed = _changed()
    wide = np.zeros_like(box)
    wide[HEIGHT // 3 - 3 : HEIGHT // 2 + 3, WIDTH // 3 - 3 : WIDTH // 2 + 3] = True
    assert changed[wide & ~box].mean() > 0.8 and not changed[~wide].any()
    clear()

    # Outside the valid area nothing is repaired.
    simple_scene()
    values = np.ones((HEIGHT, WIDTH, 3), np.float32)
    values[:, WIDTH * 5 // 12 :] = 0.0
    settings().valid = image_from(values, "valid", deep=False)
    inpaint()
    changed = _changed()
    inside = box.copy()
    inside[:, WIDTH * 5 // 12 :] = False
    assert changed[inside].mean() > 0.9 and not changed[~inside].any()
    clear()

    # An 8-bit map gives an 8-bit result, alpha and all, that is ready to be painted over.
    values = np.concatenate([normals() * 0.5 + 0.5, np.full((HEIGHT, WIDTH, 1), 0.5)], axis=-1)
    simple_scene(image_from(values, deep=False))
    inpaint()
    result = bpy.data.images["face_inpainted"]
    assert not result.is_float and result.packed_file is not None and not result.is_dirty
    assert result.colorspace_settings.name == "Non-Color"
    changed = _changed()
    assert changed[box].mean() > 0.9 and not changed[~box].any()
    assert np.unique(np.rint(read(result)[..., 3] * 255)).tolist() == [128.0]
    values = read(result).copy()
    values[0, 0] = (1.0, 0.0, 0.0, 1.0)
    write(result, values)
    result.pack()
    result.reload()
    assert np.array_equal(np.rint(read(result) * 255), np.rint(values * 255))
    clear()

    # A map painted over and not saved: what is seen is what is repaired.
    simple_scene()
    values = (normals() * 0.5 + 0.5).astype(np.float32)
    values[:8, :8] = (0.75, 0.5, 0.93)
    write(bpy.data.images["face"], values)
    inpaint()
    after = read(bpy.data.images["face_inpainted"])
    assert np.array_equal(after[:8, :8, :3], values[:8, :8].astype(np.float32))


def bad_input(work: Path) -> None:
    """Each mistake gives its own sentence, changes nothing, and the next click works."""
    click = bpy.ops.normal_inpaint.inpaint
    settings().mask = box_mask()
    fails(click, "No normal map was found")
    activate(new_material())
    fails(click, "No normal map was found")
    clear()

    _tree, texture, node = simple_scene()
    good = settings().mask
    settings().mask = None
    fails(click, "mask")
    settings().mask = texture.image
    fails(click, "the normal map itself")
    settings().mask = image_from(np.zeros((HEIGHT, WIDTH, 3), np.float32), "empty", deep=False)
    fails(click, "empty")
    settings().mask = image_from(np.ones((HEIGHT, WIDTH, 3), np.float32), "full", deep=False)
    fails(click, "covers the whole")
    settings().mask = box_mask(WIDTH, HEIGHT, "turned")
    fails(click, "proportions")
    settings().mask = good

    image = texture.image
    texture.image = None
    fails(click, "No normal map was found")
    texture.image = image_from(normals(8, 8) * 0.5 + 0.5, "tiny")
    fails(click, "small")

    # A file that has gone away.
    path = work / "gone.png"
    lost = bpy.data.images.new("lost", 32, 32, is_data=True)
    lost.filepath_raw, lost.file_format = str(path), "PNG"
    lost.save()
    lost = bpy.data.images.load(str(path))
    lost.colorspace_settings.name = "Non-Color"
    path.unlink()
    lost.reload()
    texture.image = lost
    fails(click, "no pixels", "gone.png")

    # Tagged as colour.
    texture.image = bpy.data.images.new("coloured", 64, 64)
    assert texture.image.colorspace_settings.name == "sRGB"
    fails(click, "sRGB", "Non-Color")

    # A bake into a new 32-bit image is tagged linear, which bends nothing, unless alpha comes in.
    baked = bpy.data.images.new("baked", WIDTH, HEIGHT, alpha=True, float_buffer=True)
    assert not baked.colorspace_settings.is_data
    values = np.concatenate([normals() * 0.5 + 0.5, np.full((HEIGHT, WIDTH, 1), 0.5)], axis=-1)
    write(baked, values)
    texture.image = baked
    fails(click, "Linear", "Non-Color", "discards")

    # Not numbers.
    values = normals() * 0.5 + 0.5
    values[3, 5] = np.nan
    texture.image = image_from(values, "nan")
    fails(click, "not finite")

    # No direction, although the user says that it is skin.
    values = normals() * 0.5 + 0.5
    values[3:9, 5:9] = 0.5
    texture.image = image_from(values, "grey")
    settings().valid = image_from(np.ones((HEIGHT, WIDTH, 3), np.float32), "all valid", deep=False)
    fails(click, "length zero")
    settings().valid = None

    texture.image = image
    assert addon("jobs").state.error is not None
    inpaint()
    assert addon("jobs").state.error is None
    assert node.inputs["Color"].links[0].from_node.image.name == "face_inpainted"
    clear()
    baked = bpy.data.images.new("baked", WIDTH, HEIGHT, alpha=True, float_buffer=True)
    write(baked, normals() * 0.5 + 0.5)
    simple_scene(baked)
    inpaint()


def undo(work: Path) -> None:
    """One step takes the image and its node away; redo brings both back, pixels and all."""
    bpy.context.preferences.edit.use_global_undo = True
    for deep in (True, False):
        simple_scene(normal_image(deep=deep))
        names = {image.name for image in bpy.data.images}
        bpy.ops.ed.undo_push(message="before")
        before = snapshot()
        inpaint()
        bpy.ops.ed.undo_push(message="Inpaint")
        pixels = read(bpy.data.images["face_inpainted"]).copy()
        after = snapshot()
        assert bpy.ops.ed.undo() == {"FINISHED"}
        assert {image.name for image in bpy.data.images} == names
        assert snapshot() == before
        assert bpy.ops.ed.redo() == {"FINISHED"}
        assert snapshot() == after
        assert np.array_equal(read(bpy.data.images["face_inpainted"]), pixels)
        clear()
    # What makes it one step in a window.
    assert "UNDO" in addon("operators").NORMALINPAINT_OT_inpaint.bl_options


def worker_dies(work: Path) -> None:
    """Killed while idle: the next click starts another. Killed at work: an error, then the same."""
    jobs, repair = addon("jobs"), addon("repair")
    _tree, _texture, _node = simple_scene()
    inpaint()
    first = worker_pid()
    os.kill(first, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    # Not `gone`: a process with threads is a zombie a moment before its end can be waited for.
    end = time.monotonic() + 10
    while jobs.state.client.alive and time.monotonic() < end:
        time.sleep(0.01)
    assert not jobs.state.client.alive
    inpaint()
    second = worker_pid()
    assert second != first

    # A job that is surely not done at once: many holes of a larger map.
    size = 1024
    values = np.zeros((size, size, 3), np.float32)
    for y in range(100, size - 100, 120):
        for x in range(100, size - 100, 120):
            values[y : y + 70, x : x + 70] = 1.0
    big = image_from(normals(size, size) * 0.5 + 0.5, "big")
    mask = image_from(values, "holes", deep=False)
    task = repair.prepare(None, big, mask, None, repair.Choices())
    before = snapshot()
    job = jobs.begin(task.work)
    while job.progress()[0] < 0.1 and not job.finished:
        time.sleep(0.01)
    assert not job.finished, "the job was over before the worker could be killed"
    os.kill(second, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    try:
        jobs.wait(job)
    except Exception as error:
        assert getattr(error, "code", "") == "worker_died", error
        assert "try again" in str(error).lower()
    else:
        raise AssertionError("a killed worker went unnoticed")
    assert snapshot() == before and jobs.running() is None
    inpaint()
    assert worker_pid() not in (first, second)

    # Cancelled: the same worker serves the next job.
    third = worker_pid()
    task = repair.prepare(None, big, mask, None, repair.Choices())
    job = jobs.begin(task.work)
    while job.progress()[0] < 0.1 and not job.finished:
        time.sleep(0.01)
    try:
        bpy.ops.normal_inpaint.inpaint()
    except RuntimeError as error:
        assert "already running" in str(error)
    else:
        raise AssertionError("two jobs at once")
    assert bpy.ops.normal_inpaint.cancel() == {"FINISHED"}
    try:
        jobs.wait(job)
    except Exception as error:
        assert getattr(error, "code", "") == "cancelled", error
    else:
        raise AssertionError("a cancelled job went on to the end")
    assert snapshot()[0] != [] and jobs.running() is None
    inpaint()
    assert third > 0


def other_files(work: Path) -> None:
    """Another file while a job runs; images and nodes removed meanwhile; saving and opening a result."""
    jobs, repair = addon("jobs"), addon("repair")
    tree, texture, node = simple_scene()
    task = repair.prepare(
        bpy.context.view_layer.objects.active.active_material, None, settings().mask, None, repair.Choices()
    )
    job = jobs.begin(task.work)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    assert jobs.running() is None and job.finished
    clear()

    # The node goes while the job runs: the work is kept, only not connected.
    for victim in ("node", "image", "name"):
        tree, texture, node = simple_scene()
        material = bpy.context.view_layer.objects.active.active_material
        task = repair.prepare(material, None, settings().mask, None, repair.Choices())
        outcome = jobs.wait(jobs.begin(task.work))
        if victim == "node":
            tree.nodes.remove(texture)
        elif victim == "name":
            texture.name = "renamed meanwhile"
        else:
            bpy.data.images.remove(bpy.data.images["face"])
        image = task.finish(outcome)
        assert image.name == "face_inpainted"
        if victim == "node":
            assert image.use_fake_user and any("not connected" in item for item in outcome.notices)
        else:
            assert node.inputs["Color"].links[0].from_node.image == image
        clear()

    # A failure at the very end is rolled back.
    tree, texture, node = simple_scene()
    material = bpy.context.view_layer.objects.active.active_material
    task = repair.prepare(material, None, settings().mask, None, repair.Choices())
    outcome = jobs.wait(jobs.begin(task.work))
    nodes = addon("nodes")
    real = nodes._copy_settings

    def broken(*_: Any) -> None:
        raise RuntimeError("injected")

    nodes._copy_settings = broken
    fails(lambda: task.finish(outcome), "injected")
    nodes._copy_settings = real

    # Saved with the .blend and exact when it is opened again.
    inpaint()
    settings().mask.pack()
    pixels = read(bpy.data.images["face_inpainted"]).copy()
    path = work / "sävéd file.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.wm.open_mainfile(filepath=str(path))
    assert np.array_equal(read(bpy.data.images["face_inpainted"]), pixels)
    inpaint()
    assert "face_inpainted.001" in bpy.data.images


def saving_fails(work: Path) -> None:
    """A place that cannot be written gives a sentence; what was there stays."""
    simple_scene()
    save = bpy.ops.normal_inpaint.save_result
    fails(lambda: save(filepath=str(work / "x.png")), "no repaired map")
    inpaint()
    fails(lambda: save(filepath=str(work / "nowhere" / "x.exr")), "could not be written")
    (work / "a file").write_text("not a folder")
    fails(lambda: save(filepath=str(work / "a file" / "x.exr")), "could not be written")
    fails(lambda: save(filepath=""), "no file")
    old = work / "old.jpg"
    old.write_text("old")
    fails(lambda: save(filepath=str(old)), ".png")
    assert old.read_text() == "old"
    fails(lambda: save(filepath=str(work / "x.png")), "cannot hold")
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        locked = work / "locked"
        locked.mkdir()
        locked.chmod(0o500)
        fails(lambda: save(filepath=str(locked / "x.exr")), "could not be written")
    elif Path("/proc/self").exists():
        fails(lambda: save(filepath="/proc/x.exr"), "could not be written")
    assert save(filepath=str(work / "fine.exr")) == {"FINISHED"}
    assert (work / "fine.exr").stat().st_size > 1000
    assert not [path for path in work.iterdir() if path.name.startswith(".")]


def scripting(work: Path) -> None:
    """The api: by name, by image, files in a batch; the operator called as from a button."""
    api = addon("api")
    _tree, _texture, _node = simple_scene()
    assert bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT") == {"FINISHED"}
    clear()
    normal_image("by name")
    box_mask()
    told = []
    result = api.inpaint(
        "by name", "mask", space="camera", seed=3, progress=lambda *told_: told.append(told_)
    )
    assert result.name == "by name_inpainted" and told[-1] == (1.0, "Done")
    again = api.inpaint("by name", "mask", space="camera", seed=3)
    assert np.array_equal(read(result), read(again)), "the same input gave another result"
    fails(lambda: api.inpaint("nobody", "mask"), "no image")
    fails(lambda: api.inpaint("by name", "mask", space="world"), "none of")
    path = api.save_result(result, work / "result.exr")
    assert path.is_file()

    # The other half of a symmetric map tells what is hidden, unless that is not wanted.
    values = normals()
    values[:, WIDTH // 2 :] = values[:, : WIDTH // 2][:, ::-1] * (-1, 1, 1)
    box = np.s_[HEIGHT // 3 : HEIGHT // 2, WIDTH // 3 : WIDTH // 2]

    def off(image: Any) -> float:
        return float(np.abs(read(image)[box][..., :3] * 2 - 1 - values[box]).mean())

    errors = {}
    for symmetry in (True, False):
        clear()
        even = image_from(values * 0.5 + 0.5, "even")
        how = {"space": "object", "up_axis": "y", "detail": False, "symmetry": symmetry}
        errors[symmetry] = off(api.inpaint(even, box_mask(), **how))
        clear()
        simple_scene(image_from(values * 0.5 + 0.5, "even"))
        for name, value in how.items():
            setattr(settings(), name, value.upper() if isinstance(value, str) else value)
        inpaint()
        assert abs(off(bpy.data.images["even_inpainted"]) - errors[symmetry]) < 1e-6
    assert errors[True] < 0.3 * errors[False], errors
    clear()

    pairs = []
    for index in range(2):
        for kind, image in (("map", normal_image()), ("mask", box_mask())):
            image.filepath_raw = str(work / f"{kind} {index}.png")
            image.file_format = "PNG"
            image.save()
        pairs.append((work / f"map {index}.png", work / f"mask {index}.png"))
    pairs.insert(1, (work / "missing.png", work / "mask 0.png"))
    count = len(bpy.data.images)
    done, failed = api.inpaint_files(pairs, work / "out")
    assert [path.name for path in done] == ["map 0.png", "map 1.png"], done
    assert [(path.name, error.code) for path, error in failed] == [("missing.png", "unreadable")]
    assert len(bpy.data.images) == count


def new_mask(work: Path) -> None:
    """A mask that fits, is chosen, can be painted, and keeps its paint in the .blend."""
    fails(bpy.ops.normal_inpaint.new_mask, "No normal map was found")
    _tree, _texture, _node = simple_scene()
    settings().mask = None
    bpy.data.images["face"].pack()
    assert bpy.ops.normal_inpaint.new_mask() == {"FINISHED"}
    mask = settings().mask
    assert mask.name == "face_mask" and tuple(mask.size) == (WIDTH, HEIGHT)
    assert mask.colorspace_settings.name == "Non-Color" and not mask.is_float
    # The map's relief shines through, but counts as nothing until it is painted over.
    relief = read(bpy.data.images["face"])[..., :2].mean(axis=-1, keepdims=True)
    assert np.abs(read(mask)[..., :3] - relief * 0.25).max() < 1 / 255
    assert (read(mask)[..., 3] == 1).all()
    paint: Any = bpy.context.scene.tool_settings.image_paint
    assert paint.mode == "IMAGE" and paint.canvas == mask
    shared = getattr(paint, "unified_paint_settings", None)
    shared = shared or bpy.context.scene.tool_settings.unified_paint_settings
    assert tuple(shared.color) == (1.0, 1.0, 1.0)
    fails(bpy.ops.normal_inpaint.inpaint, "empty")
    assert bpy.ops.normal_inpaint.new_mask(show_map=False) == {"FINISHED"}
    assert not read(settings().mask)[..., :3].any()
    bpy.data.images.remove(settings().mask)
    settings().mask = mask
    values = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    values[20:40, 20:40] = 1.0
    write(mask, values)
    path = work / "mask.blend"
    for _ in range(2):
        bpy.ops.wm.save_as_mainfile(filepath=str(path))
        bpy.ops.wm.open_mainfile(filepath=str(path))
        assert np.array_equal(read(settings().mask)[..., :3], values)
        # Paint again over what is packed by now.
        values[50:60, 50:60] = 1.0
        write(settings().mask, values)
    inpaint()
    assert bpy.data.images["face_inpainted"].size[0] == WIDTH
    # The repair packs the paint, grey or coloured, so that an undo cannot lose it.
    for colour in (1.0, (1.0, 0.9, 0.2)):
        assert settings().mask.packed_file is not None and not settings().mask.is_dirty
        assert np.array_equal(np.rint(read(settings().mask)[..., :3] * 255), np.rint(values * 255))
        values[70:80, 30:50] = colour
        write(settings().mask, values)
        inpaint()

    # Painting on the model goes to the mask, whatever was painted before.
    paint = bpy.context.scene.tool_settings.image_paint
    paint.mode, paint.canvas = "MATERIAL", None
    assert bpy.ops.normal_inpaint.paint_mask() == {"FINISHED"}
    assert str(bpy.context.mode) == "PAINT_TEXTURE"
    assert paint.mode == "IMAGE" and paint.canvas == settings().mask
    assert bpy.ops.normal_inpaint.paint_mask() == {"FINISHED"}
    assert str(bpy.context.mode) == "OBJECT"
    settings().mask = None
    fails(bpy.ops.normal_inpaint.paint_mask, "mask")


def engine_settings(work: Path) -> None:
    """Wrong paths in the preferences are said; a Python without PyTorch falls back; the log opens."""
    preferences = bpy.context.preferences.addons[MODULE].preferences
    jobs = addon("jobs")
    assert "not started" in jobs.engine_status().lower()
    simple_scene()
    preferences.weights = str(work / "nothing.json")
    fails(bpy.ops.normal_inpaint.inpaint, "weights file", "does not exist")
    preferences.weights = ""
    preferences.python = str(work / "no python")
    fails(bpy.ops.normal_inpaint.inpaint, "Python", "does not exist")
    preferences.engine = "onnx"
    assert bpy.ops.normal_inpaint.test_engine() == {"FINISHED"}
    assert jobs.engine_status().startswith("ONNX Runtime on CPU"), jobs.engine_status()
    first = worker_pid()
    # Blender's own Python has no PyTorch: the repair is done all the same, and the user is told.
    preferences.engine = "torch"
    preferences.python = sys.executable
    inpaint()
    assert gone(first), "the worker with the old settings still runs"
    assert jobs.engine_status().startswith("ONNX Runtime on CPU"), jobs.engine_status()
    assert jobs.state.notices, "nothing was said about the engine that could not start"
    broken = work / "broken.json"
    broken.write_text(json.dumps({"name": "no card"}))
    preferences.engine, preferences.weights = "onnx", str(broken)
    fails(bpy.ops.normal_inpaint.inpaint, "card")
    preferences.weights = ""
    inpaint()
    assert bpy.ops.normal_inpaint.open_log() == {"FINISHED"}


def disable_and_uninstall(work: Path) -> None:
    """The worker ends with the extension, the job folders go, and uninstalling leaves nothing."""
    folder = Path(sys.modules[MODULE].__file__).parent
    simple_scene()
    inpaint()
    process = addon("jobs").state.client._process
    pid, job_dir = worker_pid(), process.job_dir
    assert job_dir.is_dir()
    bpy.ops.preferences.addon_disable(module=MODULE)
    assert gone(pid), "the worker outlives the extension"
    assert not job_dir.exists()
    assert not hasattr(bpy.types.Scene, "normal_inpaint")
    bpy.ops.preferences.addon_enable(module=MODULE)
    inpaint()
    pid = worker_pid()
    index = next(
        index
        for index, repo in enumerate(bpy.context.preferences.extensions.repos)
        if repo.module == "user_default"
    )
    bpy.ops.extensions.package_uninstall(repo_index=index, pkg_id="normal_inpaint")
    assert gone(pid)
    assert not folder.exists()
    assert MODULE not in bpy.context.preferences.addons


def files(work: Path) -> None:
    """Every kind of file: loaded, repaired, saved; and once more after a turn through a .blend."""
    names = json.loads((work / "files.json").read_text(encoding="utf-8"))
    mask = bpy.data.images.load(str(work / "the mask.png"))
    (work / "saved").mkdir()
    (work / "reopened").mkdir()
    results = {}
    for name in names:
        image = bpy.data.images.load(str(work / name))
        image.colorspace_settings.name = "Non-Color"
        _tree, _texture, node = simple_scene(image, mask)
        inpaint()
        result = node.inputs["Color"].links[0].from_node.image
        assert result.is_float == image.is_float, name
        outside = read(mask)[..., 0] < 0.5
        assert np.array_equal(read(result)[outside], read(image)[outside]), name
        assert image.colorspace_settings.name == "Non-Color" and not image.is_dirty
        assert bpy.ops.normal_inpaint.save_result(filepath=str(work / "saved" / name)) == {"FINISHED"}
        results[name] = result.name
    bpy.ops.wm.save_as_mainfile(filepath=str(work / "all.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(work / "all.blend"))
    for name, result in results.items():
        done = bpy.ops.normal_inpaint.save_result(filepath=str(work / "reopened" / name), image=result)
        assert done == {"FINISHED"}


def _opened(path: Path) -> bpy.types.Image:
    """A tiled image of the files that the path names, as Blender's own Open does it."""
    image = bpy.data.images.load(str(path).replace("<UDIM>", "1001"), check_existing=False)
    image.colorspace_settings.name = "Non-Color"
    image.source = "TILED"
    return image


def tiled(work: Path) -> None:
    """Tiled maps of every kind of file: the masked tiles are repaired, the others are the same files."""
    api, tiles = addon("api"), addon("tiles")
    numbers = [1001, 1002, 1011]
    names = json.loads((work / "tiled.json").read_text(encoding="utf-8"))
    for folder in ("saved", "reopened", "by files"):
        (work / folder).mkdir(exist_ok=True)
    masks = _opened(work / "hole.<UDIM>.png")
    results = {}
    for name in names:
        image = _opened(work / name)
        _tree, texture, node = simple_scene(image, masks)
        before = snapshot()[1]
        inpaint()
        result = node.inputs["Color"].links[0].from_node.image
        assert result != image and result.source == "TILED" and result.name.startswith(name.split(".")[0])
        assert result.name.split(".")[0].endswith("_inpainted"), result.name
        assert sorted(tile.number for tile in result.tiles) == numbers
        assert [tuple(tile.size) for tile in result.tiles] == [tuple(tile.size) for tile in image.tiles]
        assert result.colorspace_settings.name == "Non-Color" and not result.is_dirty
        assert sorted(item.tile_number for item in result.packed_files) == numbers
        assert texture.image == image and image.source == "TILED" and not image.is_dirty
        assert len(image.packed_files) == 0 and "texels in" in addon("jobs").state.summary
        # The only notice is of the mask's tile that the map has not.
        assert [notice for notice in api.notices() if "1012" not in notice] == []
        assert any("1012" in notice for notice in api.notices())
        # The masked tile is another one, in Blender, too.
        assert not np.array_equal(read(result), read(image))
        assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
        assert node.inputs["Color"].links[0].from_node == texture
        assert bpy.ops.normal_inpaint.compare() == {"FINISHED"}
        assert node.inputs["Color"].links[0].from_node.image == result
        suggested = addon("save").suggested_path(result)
        assert suggested.parent == work and "_inpainted.<UDIM>." in suggested.name, suggested
        saved = str(work / "saved" / name)
        assert bpy.ops.normal_inpaint.save_result(filepath=saved) == {"FINISHED"}
        assert all(suggested.name.split(".<")[0] in item.filepath for item in result.packed_files)
        if name == names[0]:
            (work / suggested.name.replace("<UDIM>", "1002")).write_bytes(b"")
            other = addon("save").suggested_path(result)
            assert other.name == suggested.name.replace("_inpainted", "_inpainted_2"), other
            assert api.save_result(result, work / "saved" / "deep.tif").name == "deep.<UDIM>.tif"
        results[name] = result.name
        assert before != snapshot()[1]
    # The folder of the tiles on their way is gone.
    assert not list(Path(tempfile.gettempdir()).glob("normal_inpaint_*/*_inpainted.*"))
    bpy.ops.wm.save_as_mainfile(filepath=str(work / "tiled.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(work / "tiled.blend"))
    for name, result in results.items():
        # One tile's number in the path stands for all of them.
        path = str(work / "reopened" / name.replace("<UDIM>", "1002"))
        assert bpy.ops.normal_inpaint.save_result(filepath=path, image=result) == {"FINISHED"}
    done, failed = api.inpaint_files([(work / names[0], work / "hole.<UDIM>.png")], work / "by files")
    assert not failed and done == [work / "by files" / names[0]], (done, failed)
    _done, failed = api.inpaint_files([(work / "no.<UDIM>.png", work / "hole.<UDIM>.png")], work / "by files")
    assert [error.code for _path, error in failed] == ["unreadable"]

    # Photographs would lose bits: the result is made of other files.
    clear()
    _tree, _texture, node = simple_scene(
        _opened(work / "photo.<UDIM>.jpg"), _opened(work / "hole.<UDIM>.png")
    )
    inpaint()
    result = node.inputs["Color"].links[0].from_node.image
    assert all(item.packed_file.data.startswith(b"\x89PNG") for item in result.packed_files)
    assert addon("save").suggested_path(result).name == "photo_inpainted.<UDIM>.png"
    fails(lambda: api.save_result(result, work / "saved" / "photo.<UDIM>.jpg"), ".jpg")

    # The result of a repair is repaired again, in other tiles.
    clear()
    image = _opened(work / names[0])
    _tree, _texture, node = simple_scene(image, _opened(work / "hole.<UDIM>.png"))
    inpaint()
    first = node.inputs["Color"].links[0].from_node.image
    settings().mask = _opened(work / "second.<UDIM>.png")
    inpaint()
    second = node.inputs["Color"].links[0].from_node.image
    contents = [
        {item.tile_number: bytes(item.packed_file.data) for item in each.packed_files}
        for each in (first, second)
    ]
    assert [contents[0][number] == contents[1][number] for number in numbers] == [True, False, True]

    # What cannot be.
    click = bpy.ops.normal_inpaint.inpaint
    plain = box_mask()
    settings().mask = plain
    fails(click, "mask", "not a tiled")
    settings().mask = _opened(work / "hole.<UDIM>.png")
    settings().valid = plain
    fails(click, "valid area", "not a tiled")
    settings().valid = None
    settings().image = image_from(normals(), "single")
    fails(click, "single", "not a tiled")
    settings().image = image
    settings().mask = _opened(work / "black.<UDIM>.png")
    fails(click, "empty")
    settings().mask = _opened(work / "full.<UDIM>.png")
    assert "1002" in fails(click, "Tile 1002", "covers the whole")
    settings().mask = _opened(work / "hole.<UDIM>.png")
    write(image, np.full((image.size[1], image.size[0], 3), 0.5, np.float32))
    assert image.is_dirty
    fails(click, "not saved", "Image > Save")
    image.reload()
    image.colorspace_settings.name = "sRGB"
    fails(click, "sRGB", "Non-Color")
    missing = bpy.data.images.new("nothing", 64, 64, is_data=True, tiled=True)
    settings().image = missing
    fails(click, "nothing", "no pixels")
    settings().image = None

    # A new mask: of all tiles, dark, to be painted; what is painted is kept, and the other tiles as well.
    clear()
    image = _opened(work / names[0])
    _tree, _texture, node = simple_scene(image, box_mask())
    assert bpy.ops.normal_inpaint.new_mask() == {"FINISHED"}
    mask = settings().mask
    assert mask.source == "TILED" and mask.name == names[0].split(".")[0] + "_mask", mask.name
    assert [tuple(tile.size) for tile in mask.tiles] == [tuple(tile.size) for tile in image.tiles]
    relief = read(image)[..., :2].mean(axis=-1, keepdims=True)
    assert np.abs(read(mask)[..., :3] - relief * 0.25).max() < 1 / 255
    fails(click, "empty")
    height, width = mask.size[1], mask.size[0]
    values = read(mask)[..., :3].copy()
    values[height // 3 : height // 2, width // 3 : width // 2] = 1.0
    # As a stroke in a file just opened: the other tiles are not in memory.
    for _ in range(2):
        bpy.ops.wm.save_as_mainfile(filepath=str(work / "mask.blend"))
        bpy.ops.wm.open_mainfile(filepath=str(work / "mask.blend"))
        write(settings().mask, values)
        assert settings().mask.is_dirty
    bpy.ops.wm.save_as_mainfile(filepath=str(work / "mask.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(work / "mask.blend"))
    mask = settings().mask
    assert np.array_equal(np.rint(read(mask)[..., :3] * 255), np.rint(values * 255))
    values[: height // 8] = 1.0
    write(mask, values)
    inpaint()
    assert not mask.is_dirty and np.array_equal(np.rint(read(mask)[..., :3] * 255), np.rint(values * 255))
    assert sorted(item.tile_number for item in mask.packed_files) == numbers
    assert all(all(tile.size) for tile in mask.tiles)
    kept = tiles.of(mask, "mask")
    (work / "mask.1002.png").write_bytes(kept[1002].kept)
    # A mask that was saved as files stays files: its paint has to be saved there.
    mask.unpack(method="WRITE_LOCAL")
    assert len(mask.packed_files) == 0 and sorted(tiles.of(mask, "mask")) == numbers
    write(mask, values)
    fails(click, "not saved")
    assert len(mask.packed_files) == 0 and mask.is_dirty
