"""The part of the demonstration that runs inside Blender.

`python -m demo` starts this file with the interpreter that has the bpy wheel; it writes its files and a
`report.json` into the output folder. Blender's user folder must be a private one (BLENDER_USER_RESOURCES).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

PACKAGE = "bl_ext.user_default.normal_inpaint"
NODE_X = 240

timings: dict[str, float] = {}


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Notes how long the block took and prints it."""
    started = time.monotonic()
    yield
    timings[name] = time.monotonic() - started
    print(f"  {name}: {timings[name]:.1f} s", flush=True)


# ---------------------------------------------------------------- the head


def mesh_object(name: str, head: dict[str, npt.NDArray[Any]]) -> bpy.types.Object:
    """Makes the head's cage as an object with UVs, smooth shaded, z up."""
    mesh = bpy.data.meshes.new(name)
    x, y, z = head["vertices"].T
    mesh.from_pydata(np.stack([x, -z, y], axis=1).tolist(), [], without_gaps(head["faces"]))
    layer = mesh.uv_layers.new(name="UVMap")
    # from_pydata keeps the order of faces and of their corners.
    corners = head["face_uv"].ravel()
    layer.data.foreach_set("uv", head["uv"][corners[corners >= 0]].ravel())
    mesh.polygons.foreach_set("use_smooth", np.ones(len(mesh.polygons), dtype=bool))
    mesh.update()
    mesh.validate()
    made = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(made)
    return made


def without_gaps(faces: npt.NDArray[np.int32]) -> list[list[int]]:
    """Faces as lists of their corners; a triangle's last index is -1."""
    return [[corner for corner in face if corner >= 0] for face in faces.tolist()]


def apply_modifier(target: bpy.types.Object, kind: str, **settings: object) -> None:
    """Adds a modifier and makes its result the mesh."""
    modifier = target.modifiers.new(kind.title(), kind)
    for key, value in settings.items():
        setattr(modifier, key, value)
    for other in bpy.context.view_layer.objects:
        other.select_set(False)
    target.select_set(True)
    bpy.context.view_layer.objects.active = target
    bpy.ops.object.modifier_apply(modifier=modifier.name)


def make_low(head: dict[str, npt.NDArray[Any]]) -> bpy.types.Object:
    """The mesh that carries the map: smoothed, so that the map holds form and not only pores."""
    low = mesh_object("Head", head)
    apply_modifier(low, "SUBSURF", levels=1, render_levels=1, use_limit_surface=True)
    apply_modifier(low, "SMOOTH", factor=0.5, iterations=1)
    return low


def make_high(head: dict[str, npt.NDArray[Any]], levels: int = 3) -> bpy.types.Object:
    """The "sculpt": the limit surface, with skin in its shader."""
    high = mesh_object("Sculpt", head)
    apply_modifier(high, "SUBSURF", levels=levels, render_levels=levels, use_limit_surface=True)
    return high


# ---------------------------------------------------------------- shading


class Nodes:
    """A short way to write a node tree."""

    def __init__(self, material: bpy.types.Material) -> None:
        if bpy.app.version < (5, 0, 0):
            material.use_nodes = True
        assert material.node_tree is not None
        self.tree = material.node_tree
        self.tree.nodes.clear()

    def add(self, kind: str, /, inputs: dict[str | int, object] | None = None, **settings: object) -> Any:
        """Makes a node; an input that is a socket is linked, any other value is set."""
        node = self.tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        for name, value in (inputs or {}).items():
            socket: Any = node.inputs[name]
            if isinstance(value, bpy.types.NodeSocket):
                self.tree.links.new(value, socket)
            else:
                socket.default_value = value
        node.location = (NODE_X * len(self.tree.nodes), 0)
        return node

    def math(self, operation: str, first: object, second: object = 0.0) -> Any:
        """A Math node's output."""
        return self.add("ShaderNodeMath", {0: first, 1: second}, operation=operation).outputs[0]

    def ramp(self, value: object, low: float, high: float, start: float = 0.0, end: float = 1.0) -> Any:
        """A smooth step from `start` at `low` to `end` at `high`."""
        inputs: dict[str | int, object] = {
            "Value": value,
            "From Min": low,
            "From Max": high,
            "To Min": start,
            "To Max": end,
        }
        return self.add("ShaderNodeMapRange", inputs, interpolation_type="SMOOTHSTEP").outputs[0]


def sculpt_material(fineness: float) -> bpy.types.Material:
    """Procedural skin: unevenness, creases, pores and lines on the forehead, as a bump of known height.

    Heights are in Blender units; one unit is a decimetre. `fineness` is 1 for pores of life size; below,
    pores and creases are wider and deeper by as much, for maps too small to hold them.
    """
    material = bpy.data.materials.new("Sculpt skin")
    nodes = Nodes(material)
    deep = 1.0 / fineness
    place = nodes.add("ShaderNodeTexCoord").outputs["Object"]
    x, y, z = nodes.add("ShaderNodeSeparateXYZ", {0: place}).outputs[:3]

    uneven = nodes.add("ShaderNodeTexNoise", {"Vector": place, "Scale": 7.0, "Detail": 4.0, "Roughness": 0.5})
    height = nodes.math("MULTIPLY", uneven.outputs[0], 0.035)

    # Skin's fine relief: plates between creases, drawn out by a warp so that no two look alike.
    warp = nodes.add("ShaderNodeTexNoise", {"Vector": place, "Scale": 9.0, "Detail": 2.0})
    offset = nodes.add("ShaderNodeVectorMath", {0: warp.outputs["Color"]}, operation="SCALE")
    offset.inputs["Scale"].default_value = 0.12
    warped = nodes.add("ShaderNodeVectorMath", {0: place, 1: offset.outputs[0]}, operation="ADD").outputs[0]
    plates = nodes.add(
        "ShaderNodeTexVoronoi", {"Vector": warped, "Scale": 34.0 * fineness}, feature="DISTANCE_TO_EDGE"
    )
    crease = nodes.ramp(plates.outputs["Distance"], 0.0, 0.16)
    height = nodes.math("ADD", height, nodes.math("MULTIPLY", crease, 0.0009 * deep))

    # Pores, deepest on the nose and the inner cheeks, thinning towards the neck and the ears.
    pore = nodes.add("ShaderNodeTexVoronoi", {"Vector": place, "Scale": 48.0 * fineness}, feature="F1")
    dent = nodes.ramp(pore.outputs["Distance"], 0.12, 0.42)
    side = nodes.ramp(nodes.math("ABSOLUTE", x), 0.15, 0.75, 1.0, 0.35)
    front = nodes.ramp(y, -0.2, -0.8)
    depth = nodes.math("MULTIPLY", nodes.math("MULTIPLY", side, front), 0.0022 * deep)
    height = nodes.math("ADD", height, nodes.math("MULTIPLY", dent, depth))

    grain = nodes.add("ShaderNodeTexNoise", {"Vector": place, "Scale": 60.0 * fineness, "Detail": 2.0})
    height = nodes.math("ADD", height, nodes.math("MULTIPLY", grain.outputs[0], 0.0010 * deep))

    # Lines across the forehead: narrow furrows where a distorted wave crosses zero.
    stretched = nodes.add("ShaderNodeMapping", {"Vector": place, "Scale": (0.35, 0.35, 1.0)}).outputs[0]
    wave = nodes.add(
        "ShaderNodeTexWave",
        {"Vector": stretched, "Scale": 2.6, "Distortion": 3.2, "Detail": 2.0, "Detail Scale": 1.4},
        bands_direction="Z",
        wave_profile="SIN",
    )
    furrow = nodes.ramp(wave.outputs["Fac"] if "Fac" in wave.outputs else wave.outputs[1], 0.0, 0.3)
    brow = nodes.math("MULTIPLY", nodes.ramp(z, 1.98, 2.1), nodes.ramp(z, 2.32, 2.2))
    brow = nodes.math("MULTIPLY", brow, nodes.ramp(nodes.math("ABSOLUTE", x), 0.55, 0.3))
    height = nodes.math("ADD", height, nodes.math("MULTIPLY", furrow, nodes.math("MULTIPLY", brow, 0.010)))

    bump = nodes.add("ShaderNodeBump", {"Strength": 1.0, "Distance": 1.0, "Height": height})
    shader = nodes.add("ShaderNodeBsdfDiffuse", {"Normal": bump.outputs["Normal"]})
    nodes.add("ShaderNodeOutputMaterial", {"Surface": shader.outputs[0]})
    return material


def head_material(normal_map: bpy.types.Image) -> bpy.types.Material:
    """The material a user would have: Image Texture -> Normal Map -> Principled BSDF."""
    material = bpy.data.materials.new("Skin")
    nodes = Nodes(material)
    texture = nodes.add("ShaderNodeTexImage", image=normal_map)
    normal = nodes.add("ShaderNodeNormalMap", {"Color": texture.outputs["Color"]}, uv_map="UVMap")
    inputs: dict[str | int, object] = {
        "Base Color": (0.50, 0.36, 0.29, 1.0),
        "Roughness": 0.42,
        "Normal": normal.outputs["Normal"],
    }
    shader = nodes.add("ShaderNodeBsdfPrincipled", inputs)
    nodes.add("ShaderNodeOutputMaterial", {"Surface": shader.outputs[0]})
    nodes.tree.nodes.active = texture
    return material


# ---------------------------------------------------------------- baking


def bake(low: bpy.types.Object, high: bpy.types.Object, size: int) -> bpy.types.Image:
    """Bakes the sculpt's normals into a tangent-space map of the low mesh with Cycles."""
    image = bpy.data.images.new("head_normal", size, size, alpha=False, float_buffer=True, is_data=True)
    low.data.materials.clear()
    low.data.materials.append(head_material(image))
    scene = bpy.context.scene
    scene.cycles.samples = 4
    settings = scene.render.bake
    settings.use_selected_to_active = True
    # Short rays: lips and lids touch, and a longer one would meet the other lip.
    settings.cage_extrusion = 0.012
    settings.max_ray_distance = 0.03
    settings.margin = max(2, size // 128)
    settings.normal_space = "TANGENT"
    for other in bpy.context.view_layer.objects:
        other.select_set(other in (low, high))
    bpy.context.view_layer.objects.active = low
    bpy.ops.object.bake(type="NORMAL")
    return image


def read(image: bpy.types.Image) -> Float:
    """An image's pixels as (H, W, 4) float32, top row first."""
    width, height = int(image.size[0]), int(image.size[1])
    pixels = np.empty(width * height * 4, dtype=np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(height, width, 4)[::-1].copy()


def write(image: bpy.types.Image, pixels: Float) -> None:
    """The reverse of `read`."""
    image.pixels.foreach_set(np.ascontiguousarray(pixels[::-1]).ravel())
    image.update()


def save_png(pixels: Float, path: Path) -> bpy.types.Image:
    """Saves (H, W, 4) pixels as 16-bit PNG and opens the file as a Non-Color image."""
    height, width = pixels.shape[:2]
    image = bpy.data.images.new(path.stem, width, height, alpha=False, float_buffer=True, is_data=True)
    write(image, pixels)
    image.filepath_raw = str(path)
    image.file_format = "PNG"
    image.save()
    bpy.data.images.remove(image)
    opened = bpy.data.images.load(str(path))
    opened.colorspace_settings.name = "Non-Color"
    return opened


# ---------------------------------------------------------------- damage


def field(size: int, cells: int, rng: np.random.Generator) -> Float:
    """Smooth noise about 0: random values on a coarse grid, interpolated.

    Returns:
        (size, size) float32, standard deviation of about 0.5.
    """
    coarse = rng.normal(size=(cells + 2, cells + 2))
    at = np.linspace(0.0, cells, size, endpoint=False)
    index = at.astype(int)
    part = at - index
    part = part * part * (3.0 - 2.0 * part)
    rows = coarse[index] * (1.0 - part)[:, None] + coarse[index + 1] * part[:, None]
    mixed = rows[:, index] * (1.0 - part) + rows[:, index + 1] * part
    return np.asarray(mixed, dtype=np.float32)


def damage_mask(size: int, rng: np.random.Generator) -> Bool:
    """What a scan loses: a large patch of one cheek down to the mouth's corner, and strands over the brow.

    Returns:
        (size, size) bool, True where the map is damaged.
    """
    v, u = np.mgrid[0:size, 0:size].astype(np.float32) / size
    ragged = 0.16 * field(size, 7, rng) + 0.05 * field(size, 28, rng)
    patch = ((u - 0.672) / 0.102) ** 2 + ((v - 0.605) / 0.110) ** 2
    mask = patch < 1.0 + ragged * 1.4
    for start, lean, bend, end in (
        (0.36, 0.10, 0.022, 0.47),
        (0.40, 0.06, -0.018, 0.38),
        (0.455, -0.20, 0.02, 0.60),
    ):
        along = v - 0.13
        path = start + lean * along + bend * np.sin(along * 9.0)
        width = 0.0035 + 0.002 * np.sin(along * 19.0 + start * 50.0)
        mask |= (np.abs(u - path) < np.maximum(width, 1.0 / size)) & (along > 0.0) & (v < end)
    return np.asarray(mask)


def damaged_normals(pixels: Float, mask: Bool, rng: np.random.Generator) -> Float:
    """Fills the mask with what broken captures look like: speckle on top of smeared, wrong directions."""
    size = mask.shape[0]
    tilt = [0.5 * field(size, 12, rng) + 0.35 * field(size, size // 3, rng) for _ in range(2)]
    normals = np.stack([*tilt, np.full_like(tilt[0], 1.0)], axis=2)
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    out = pixels.copy()
    out[mask, :3] = (normals[mask] * 0.5 + 0.5).astype(np.float32)
    return out


# ---------------------------------------------------------------- picture


def light_and_camera(width: int, height: int, samples: int) -> None:
    """One hard light that rakes across the damaged cheek, a faint one behind, and a portrait lens."""
    scene = bpy.context.scene

    def lamp(name: str, energy: float, size: float, place: tuple[float, float, float], aim: Any) -> None:
        data = bpy.data.lights.new(name, "AREA")
        data.energy, data.size = energy, size
        lit = bpy.data.objects.new(name, data)
        lit.location = place
        point_at(lit, aim)
        scene.collection.objects.link(lit)

    face = (0.1, -0.75, 1.62)
    lamp("Raking", 300.0, 0.5, (4.2, -1.2, 3.0), face)
    lamp("Fill", 18.0, 3.0, (-2.5, -5.0, 1.6), face)
    lamp("Rim", 16.0, 0.8, (-3.0, 2.2, 3.2), (0.0, 0.0, 1.8))

    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.data.lens = 85.0
    camera.location = (2.35, -5.6, 1.75)
    point_at(camera, (0.02, -0.15, 1.60))
    scene.collection.objects.link(camera)
    scene.camera = camera

    world = bpy.data.worlds.new("World")
    if bpy.app.version < (5, 0, 0):
        world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.008, 0.009, 0.011, 1.0)
    scene.world = world
    scene.render.engine = "CYCLES"
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100
    scene.cycles.samples = samples
    scene.cycles.use_denoising = False
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.max_bounces = 1
    scene.view_settings.view_transform = "Standard"


def point_at(thing: bpy.types.Object, aim: Any) -> None:
    """Turns a camera or a light towards a place."""
    from mathutils import Vector

    thing.rotation_euler = (Vector(aim) - thing.location).to_track_quat("-Z", "Y").to_euler()


def render(path: Path) -> None:
    """Renders the scene into an 8-bit PNG."""
    settings = bpy.context.scene.render
    settings.image_settings.file_format = "PNG"
    settings.image_settings.color_mode = "RGB"
    settings.image_settings.color_depth = "8"
    settings.filepath = str(path)
    bpy.ops.render.render(write_still=True)


# ---------------------------------------------------------------- the extension


def install(extension: Path) -> None:
    """Installs and enables the zip, as "Install from Disk" does.

    Raises:
        RuntimeError: The extension did not register.
    """
    bpy.ops.extensions.package_install_files(
        filepath=str(extension), repo="user_default", enable_on_install=True
    )
    if PACKAGE not in bpy.context.preferences.addons:
        raise RuntimeError(f"{extension.name} was installed but could not be enabled.")


def uninstall() -> None:
    """Takes it away again, which also ends its worker."""
    bpy.ops.preferences.addon_disable(module=PACKAGE)


def repair(mask: bpy.types.Image, output: Path) -> bpy.types.Image:
    """The click: chooses the mask, runs the operator, saves what it made.

    Returns:
        The new image, which the material now shows.
    """
    operators: Any = bpy.ops.normal_inpaint
    scene: Any = bpy.context.scene
    scene.normal_inpaint.mask = mask
    before = set(bpy.data.images)
    with timed("repair, first click"):
        outcome = operators.inpaint()
    made = [image for image in bpy.data.images if image not in before]
    if outcome != {"FINISHED"} or len(made) != 1:
        raise RuntimeError(f"The operator answered {outcome} and made {len(made)} images.")
    with timed("save the result"):
        if operators.save_result(filepath=str(output), image=made[0].name) != {"FINISHED"}:
            raise RuntimeError("The result could not be saved.")
    return made[0]


# ---------------------------------------------------------------- the whole


def main(arguments: list[str]) -> int:
    """Runs the demonstration; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--extension", type=Path, required=True, help="the extension's zip")
    parser.add_argument("--head", type=Path, required=True, help="the head's mesh")
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    parser.add_argument("--size", type=int, default=1024, help="texels a side of the normal map")
    options = parser.parse_args(arguments)
    output: Path = options.output
    rng = np.random.default_rng(7)
    print(f"Blender {bpy.app.version_string}", flush=True)

    bpy.ops.wm.read_factory_settings(use_empty=True)
    with timed("install the extension"):
        install(options.extension)
    bpy.context.scene.render.engine = "CYCLES"

    with timed("head"):
        head = dict(np.load(options.head))
        low = make_low(head)
        high = make_high(head)
        high.data.materials.append(sculpt_material(min(1.0, options.size / 1024)))
    with timed("bake"):
        baked = bake(low, high, options.size)
    source = read(baked)
    bpy.data.objects.remove(high)
    mask = damage_mask(options.size, rng)
    truth = save_png(source, output / "source.png")
    damaged = save_png(damaged_normals(source, mask, rng), output / "head_normal.png")
    white = np.repeat(mask[..., None], 4, axis=2).astype(np.float32)
    white[..., 3] = 1.0
    painted = save_png(white, output / "mask.png")

    material: Any = low.active_material
    material.node_tree.nodes.active.image = damaged
    bpy.data.images.remove(baked)
    bpy.data.images.remove(truth)
    height = min(900, max(160, options.size))  # about as many pixels as the face has texels
    light_and_camera(round(height * 0.8), height, 24 if options.size >= 512 else 8)
    with timed("render before"):
        render(output / "before.png")

    repair(painted, output / "head_normal_inpainted.png")
    with timed("render after"):
        render(output / "after.png")

    for image in bpy.data.images:
        if image.filepath and image.packed_file is None:
            image.pack()
    bpy.ops.wm.save_as_mainfile(filepath=str(output / "head.blend"), compress=True)
    uninstall()
    report = {"blender": bpy.app.version_string, "seconds": timings}
    (output / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
