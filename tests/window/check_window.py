"""Clicks through the extension in a real Blender window and says what it saw.

Run by hand, for no wheel of Blender has a window; on a machine without a screen, under Xvfb:

    BLENDER_USER_RESOURCES=EMPTY_FOLDER blender --factory-startup --enable-event-simulate \
        --window-geometry 0 0 1600 900 --python tests/window/check_window.py -- --zip ZIP --output FOLDER

FOLDER receives a screenshot of every stage and `report.json`; the exit code is 0 if every check held.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from bpy_extras import view3d_utils

MODULE = "bl_ext.user_default.normal_inpaint"
#: Longest time that the add-on's own callbacks may hold the window, in seconds, pixels' transfer apart.
TICK = 0.05
#: Seconds after which a stage counts as hung.
PATIENCE = 180.0

Wait = Callable[[], bool]


class Check:
    """What was seen so far."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.passed: list[str] = []
        self.failed: list[str] = []
        self.figures: dict[str, Any] = {}

    def that(self, truth: bool, what: str) -> None:
        (self.passed if truth else self.failed).append(what)
        print(("ok      " if truth else "FAILED  ") + what, flush=True)

    def shot(self, name: str) -> None:
        """A picture of the whole window; the X server's where there is one, for Blender's is black there."""
        grab = shutil.which("import")
        if os.environ.get("DISPLAY") and grab is not None:
            subprocess.run([grab, "-window", "root", str(self.output / f"{name}.png")], check=True)
            return
        window = bpy.context.window_manager.windows[0]
        area = window.screen.areas[0]
        with bpy.context.temp_override(window=window, area=area, region=area.regions[0]):
            bpy.ops.screen.screenshot(filepath=str(self.output / f"{name}.png"))

    def write(self) -> None:
        report = {"passed": self.passed, "failed": self.failed, "figures": self.figures}
        report["blender"] = bpy.app.version_string
        (self.output / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        print(f"{len(self.passed)} passed, {len(self.failed)} failed", flush=True)


def window() -> Any:
    return bpy.context.window_manager.windows[0]


def show(area: Any, kind: str) -> None:
    """Turn an area into an editor with the extension's tab open in its sidebar."""
    area.type = kind
    if kind == "NODE_EDITOR":
        area.ui_type = "ShaderNodeTree"
    area.spaces.active.show_region_ui = True


def open_tab(area: Any) -> Wait:
    """Ready once the sidebar shows the extension's tab: a new sidebar learns its tabs as it is drawn."""
    region = next(item for item in area.regions if item.type == "UI")
    end = time.monotonic() + 10

    def ready() -> bool:
        with contextlib.suppress(AttributeError, TypeError):
            region.active_panel_category = "Normal Inpaint"
            region.tag_redraw()
            return True
        return time.monotonic() > end

    return ready


def pause(seconds: float) -> Wait:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def scene(size: int) -> tuple[Any, Any]:
    """A sphere whose material shows a normal map with soft bumps and fine grain."""
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=48, ring_count=24)
    ball = bpy.context.view_layer.objects.active
    bpy.ops.object.shade_smooth()
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * 2 * np.pi
    rng = np.random.default_rng(5)
    slope_x = 0.3 * np.sin(6 * x) * np.cos(4 * y) + 0.1 * rng.standard_normal(x.shape, np.float32)
    slope_y = 0.3 * np.cos(5 * x) * np.sin(7 * y) + 0.1 * rng.standard_normal(x.shape, np.float32)
    normals = np.stack([-slope_x, -slope_y, np.ones_like(x)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    buffer = np.ones((size, size, 4), np.float32)
    buffer[..., :3] = normals * 0.5 + 0.5
    image = bpy.data.images.new("skin", size, size, is_data=True)
    image.pixels.foreach_set(buffer.ravel())
    image.update()
    image.pack()
    material = bpy.data.materials.new("head")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    tree = material.node_tree
    texture = tree.nodes.new("ShaderNodeTexImage")
    texture.image = image
    texture.location = (-700, 0)
    normal = tree.nodes.new("ShaderNodeNormalMap")
    normal.location = (-350, -200)
    tree.links.new(texture.outputs["Color"], normal.inputs["Color"])
    shader = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    tree.links.new(normal.outputs["Normal"], shader.inputs["Normal"])
    ball.data.materials.append(material)
    return ball, image


def fed_by(material: Any) -> Any:
    """The image that reaches the Normal Map node."""
    normal = next(node for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeNormalMap")
    return normal.inputs["Color"].links[0].from_node.image


def pixels_of(image: Any) -> Any:
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    return values


def paint_disc(mask: Any, share: float) -> None:
    width, height = mask.size
    y, x = np.mgrid[0:height, 0:width]
    inside = (x - width * 0.5) ** 2 + (y - height * 0.5) ** 2 < (share * width) ** 2
    buffer = np.ones((height, width, 4), np.float32)
    buffer[..., :3] = inside[..., None]
    mask.pixels.foreach_set(buffer.ravel())
    mask.update()


def stroke(x: int, y: int) -> None:
    """A short stroke with the brush, in the region of the context."""
    paint = bpy.context.tool_settings.image_paint
    if paint.brush is None:  # some distributions leave Blender's own brushes out
        brush = bpy.data.brushes.new("Dot", mode="TEXTURE_PAINT")
        brush.asset_mark()
        bpy.ops.brush.asset_activate(
            asset_library_type="LOCAL", relative_asset_identifier=f"Brush/{brush.name}"
        )
    known = bpy.types.OperatorStrokeElement.bl_rna.properties.keys()
    elements = []
    for step in range(5):
        at = (x + 5 * step, y)
        fields = {
            "name": "",
            "mouse": at,
            "mouse_event": at,
            "is_start": step == 0,
            "size": 40,
            "time": step * 0.1,
        }
        fields |= {"location": (0, 0, 0), "pressure": 1, "pen_flip": False, "x_tilt": 0, "y_tilt": 0}
        elements.append({name: value for name, value in fields.items() if name in known})
    bpy.ops.paint.image_paint("EXEC_DEFAULT", stroke=elements)


def white_texels(mask: Any) -> int:
    return int((pixels_of(mask).reshape(-1, 4)[:, 0] > 0.5).sum())


def stages(check: Check, zip_path: Path, size: int) -> Iterator[Wait]:
    """One stage after the other; each yields what to wait for."""
    done = bpy.ops.extensions.package_install_files(
        filepath=str(zip_path), repo="user_default", enable_on_install=True
    )
    check.that(done == {"FINISHED"}, "the zip installs from disk")
    yield pause(0.5)
    check.that(MODULE in bpy.context.preferences.addons, "the extension is enabled")
    ball, source = scene(size)
    material = ball.active_material
    before = pixels_of(source)
    areas = sorted(window().screen.areas, key=lambda item: -item.width * item.height)
    main = areas[0]
    kinds = ("NODE_EDITOR", "IMAGE_EDITOR", "VIEW_3D")
    for kind in kinds:
        show(main, kind)
        yield pause(1.0)
        yield open_tab(main)
        yield pause(1.5)
        check.shot(f"panel_{kind.lower()}")
    region = next(item for item in main.regions if item.type == "WINDOW")

    def override() -> Any:
        return bpy.context.temp_override(window=window(), area=main, region=region)

    with override():
        bpy.ops.ed.undo_push(message="The scene")
        check.that(not bpy.ops.normal_inpaint.inpaint.poll(), "without a mask the button is off")
        bpy.ops.normal_inpaint.new_mask("INVOKE_DEFAULT")
    mask = bpy.context.scene.normal_inpaint.mask
    check.that(mask is not None and tuple(mask.size) == (size, size), "New Mask makes a fitting mask")
    check.that(bpy.context.tool_settings.image_paint.canvas == mask, "the mask is ready to be painted")
    paint_disc(mask, 0.12)
    with override():
        bpy.ops.ed.undo_push(message="Paint")
    yield pause(0.5)

    # The add-on's share of the main thread, callback by callback.
    operators = sys.modules[f"{MODULE}.addon.operators"]
    jobs = sys.modules[f"{MODULE}.addon.jobs"]
    held: list[tuple[bool, float]] = []
    plain = operators.JobOperator.modal

    def timed(self: Any, context: Any, event: Any) -> Any:
        begun = time.perf_counter()
        last = self._job.finished
        try:
            return plain(self, context, event)
        finally:
            held.append((last, time.perf_counter() - begun))

    operators.JobOperator.modal = timed
    for run in ("cold", "warm"):
        held.clear()
        images = set(bpy.data.images)
        begun = time.perf_counter()
        with override():
            answer = bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
        check.figures[f"{run}: click until the window answers, s"] = round(time.perf_counter() - begun, 3)
        check.that(answer == {"RUNNING_MODAL"}, f"{run}: the click returns at once")
        yield pause(0.4)
        if jobs.running() is not None:
            check.shot(f"running_{run}")
        yield lambda: jobs.running() is None
        check.figures[f"{run}: click until done, s"] = round(time.perf_counter() - begun, 3)
        ticks = [seconds for last, seconds in held if not last]
        check.figures[f"{run}: longest tick, s"] = round(max(ticks, default=0.0), 4)
        check.figures[f"{run}: ticks"] = len(ticks)
        check.figures[f"{run}: pixels' transfer at the end, s"] = round(
            sum(seconds for last, seconds in held if last), 3
        )
        check.that(max(ticks, default=0.0) < TICK, f"{run}: no tick over {TICK * 1000:.0f} ms")
        error = jobs.state.error
        check.that(error is None, f"{run}: no error ({error})")
        fresh = set(bpy.data.images) - images
        check.that(len(fresh) == 1, f"{run}: one new image")
        check.that(fed_by(material) in fresh, f"{run}: the result feeds the Normal Map node")
        check.that(bool(np.array_equal(pixels_of(source), before)), f"{run}: the source is untouched")
        yield pause(1.5)
        check.shot(f"done_{run}")
        if run == "cold":
            # Undo is one step, and the next click works again.
            with override():
                bpy.ops.ed.undo()
            yield pause(0.5)
            material = bpy.data.materials["head"]
            source = fed_by(material)
            check.that(source.name == "skin", "one undo brings the source back")
            mask = bpy.context.scene.normal_inpaint.mask
            check.that(mask is not None, "undo leaves the mask chosen")
            paint_disc(mask, 0.12)
            yield pause(0.3)

    result = fed_by(material)
    with override():
        bpy.ops.normal_inpaint.compare("INVOKE_DEFAULT")
        check.that(fed_by(material) == source, "Before / After shows the source")
        bpy.ops.normal_inpaint.compare("INVOKE_DEFAULT")
        check.that(fed_by(material) == result, "and the result again")

    def unchanged(what: str) -> None:
        check.that({image.name for image in bpy.data.images} == names, f"{what} leaves no image behind")
        check.that(
            [node.name for node in material.node_tree.nodes] == nodes, f"{what} leaves the nodes alone"
        )
        check.that(fed_by(material) == result, f"{what} leaves the links alone")

    names = {image.name for image in bpy.data.images}
    nodes = [node.name for node in material.node_tree.nodes]
    client = jobs.state.client
    check.that(client is not None and client.alive, "the worker stays for the next click")

    # Esc, as Blender's own event queue delivers it. A stopped worker makes sure that it comes in time.
    os.kill(client.hello.pid, signal.SIGSTOP)
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    yield pause(1.0)
    check.that(jobs.running() is not None, "a repair runs")
    check.shot("waiting")
    begun = time.perf_counter()
    middle = {"x": main.x + main.width // 2, "y": main.y + main.height // 2}
    window().event_simulate(type="ESC", value="PRESS", **middle)
    window().event_simulate(type="ESC", value="RELEASE", **middle)
    yield lambda: jobs.running() is None
    check.figures["Esc until a hung worker is given up, s"] = round(time.perf_counter() - begun, 3)
    unchanged("Esc")
    check.that(jobs.state.error is None, "Esc is no error")

    # A worker that dies in the middle is reported, and the click after it works.
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    yield lambda: jobs.running() is None
    check.that(jobs.state.error is None, "after Esc the next click works")
    result = fed_by(material)
    names = {image.name for image in bpy.data.images}
    nodes = [node.name for node in material.node_tree.nodes]
    client = jobs.state.client
    pid, requests = client.hello.pid, client._number
    os.kill(pid, signal.SIGSTOP)
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    # An idle worker that dies is no error: only kill it once it was asked for something.
    yield lambda: client._number > requests
    yield pause(0.3)
    os.kill(pid, signal.SIGKILL)
    yield lambda: jobs.running() is None
    check.that(getattr(jobs.state.error, "code", "") == "worker_died", "a worker's death is named")
    unchanged("a worker's death")
    yield pause(1.5)
    check.shot("worker_died")
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    yield lambda: jobs.running() is None
    check.that(jobs.state.error is None, "after a worker's death the next click works")

    # Painted with the brush on the model: an undo of the repair leaves the paint alone. Beside it an editor
    # that shows the mask, then the result.
    with override():
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.6)
    yield pause(0.5)
    views = [item for item in window().screen.areas if item.type == "VIEW_3D"]
    beside = min(views, key=lambda item: item.width)
    main = max(views, key=lambda item: item.width)
    region = next(item for item in main.regions if item.type == "WINDOW")
    beside.type = "IMAGE_EDITOR"
    beside.spaces.active.image = bpy.context.scene.normal_inpaint.mask

    def looked_at() -> str:
        image = beside.spaces.active.image
        return "nothing" if image is None else image.name

    mask = bpy.context.scene.normal_inpaint.mask
    before_stroke = white_texels(mask)
    with override():
        bpy.ops.normal_inpaint.paint_mask()
    yield pause(1.5)
    with override():
        check.that(bpy.context.mode == "PAINT_TEXTURE", "the mask can be painted on the model")
        stroke(region.width // 2 - 60, region.height // 2 + 30)
        bpy.ops.ed.undo_push(message="Stroke")
    painted = white_texels(mask)
    check.that(painted > before_stroke, "the stroke is white, and in the mask")
    yield pause(1.0)
    check.shot("painting")
    shown = fed_by(material).name
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    yield lambda: jobs.running() is None
    check.that(jobs.state.error is None, "the painted mask is repaired")
    with override():
        check.that(bpy.context.mode == "OBJECT", "a repair ends the painting")
        repaired = fed_by(material).name
        check.that(looked_at() == repaired, "the Image Editor shows the result")
        bpy.ops.ed.undo()
    yield pause(0.5)
    material = bpy.data.materials["head"]
    check.that(fed_by(material).name == shown, "one undo takes the repair back")
    check.that(white_texels(bpy.context.scene.normal_inpaint.mask) == painted, "and leaves the paint")
    check.that(looked_at() == "skin_mask", f"the Image Editor shows the mask again ({looked_at()})")
    check.shot("undone")
    with override():
        bpy.ops.ed.redo()
    yield pause(0.5)
    material = bpy.data.materials["head"]
    check.that(fed_by(material).name == repaired, "redo brings the repair back")
    check.that(white_texels(bpy.context.scene.normal_inpaint.mask) == painted, "with the paint")
    check.that(looked_at() == repaired, f"and the Image Editor follows ({looked_at()})")
    yield from tiled_stages(check, main)
    pid = jobs.state.client.hello.pid
    bpy.ops.preferences.addon_disable(module=MODULE)
    yield pause(1.0)
    check.that(not _alive(pid), "disabling the extension ends the worker")


def tiled_scene(folder: Path, size: int) -> Any:
    """Two tiles beside each other, seen from above, that show a tiled map."""
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size * 2 * np.pi
    for number in (1001, 1002):
        slopes = 0.3 * np.sin((number - 998) * x) * np.cos(4 * y), 0.3 * np.cos(5 * x)
        normals = np.stack([*slopes, np.ones_like(x)], axis=-1)
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        buffer = np.ones((size, size, 4), np.float32)
        buffer[..., :3] = normals * 0.5 + 0.5
        tile = bpy.data.images.new("tile", size, size, is_data=True)
        tile.pixels.foreach_set(buffer.ravel())
        tile.save(filepath=str(folder / f"tiles.{number}.png"))
        bpy.data.images.remove(tile)
    image = bpy.data.images.load(str(folder / "tiles.1001.png"))
    image.colorspace_settings.name = "Non-Color"
    image.source = "TILED"
    mesh = bpy.data.meshes.new("two tiles")
    corners = [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (1, 1, 0), (2, 1, 0)]
    mesh.from_pydata(corners, [], [(0, 1, 4, 3), (1, 2, 5, 4)])
    layer = mesh.uv_layers.new(name="UVMap")
    for loop in mesh.loops:
        layer.uv[loop.index].vector = corners[loop.vertex_index][:2]
    material = bpy.data.materials.new("tiles")
    if bpy.app.version < (5, 0, 0):
        material.use_nodes = True
    tree = material.node_tree
    texture, normal = tree.nodes.new("ShaderNodeTexImage"), tree.nodes.new("ShaderNodeNormalMap")
    texture.image = image
    tree.links.new(texture.outputs["Color"], normal.inputs["Color"])
    shader = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    tree.links.new(normal.outputs["Normal"], shader.inputs["Normal"])
    mesh.materials.append(material)
    thing = bpy.data.objects.new("two tiles", mesh)
    bpy.context.scene.collection.objects.link(thing)
    bpy.context.view_layer.objects.active = thing
    return image


def kept(image: Any) -> dict[int, bytes]:
    """The tiles that are packed."""
    return {item.tile_number: bytes(item.packed_file.data) for item in image.packed_files}


def white_in(folder: Path, content: bytes) -> int:
    """White texels of a tile."""
    path = folder / "tile.png"
    path.write_bytes(content)
    image = bpy.data.images.load(str(path), check_existing=False)
    count = white_texels(image)
    bpy.data.images.remove(image)
    return count


def tiled_stages(check: Check, main: Any) -> Iterator[Wait]:
    """A tiled map: the mask is painted on the second tile, on the model, with the brush."""
    jobs = sys.modules[f"{MODULE}.addon.jobs"]
    size = 512
    source = tiled_scene(check.output, size)
    region = next(item for item in main.regions if item.type == "WINDOW")
    view = main.spaces.active.region_3d
    view.view_perspective = "ORTHO"
    view.view_rotation, view.view_location, view.view_distance = (1, 0, 0, 0), (1, 0.5, 0), 4
    main.spaces.active.shading.type = "MATERIAL"

    def override() -> Any:
        return bpy.context.temp_override(window=window(), area=main, region=region)

    bpy.context.scene.normal_inpaint.mask = None
    bpy.context.scene.normal_inpaint.image = None
    with override():
        bpy.ops.ed.undo_push(message="Tiles")
        bpy.ops.normal_inpaint.new_mask("INVOKE_DEFAULT")
    yield lambda: jobs.running() is None
    mask = bpy.context.scene.normal_inpaint.mask
    check.that(mask is not None and mask.source == "TILED", "New Mask makes a tiled mask")
    check.that(sorted(kept(mask)) == [1001, 1002], "of all tiles")
    with override():
        bpy.ops.normal_inpaint.paint_mask()
    yield pause(2.0)
    with override():
        at = view3d_utils.location_3d_to_region_2d(region, view, (1.45, 0.5, 0))
        stroke(int(at[0]), int(at[1]))
        bpy.ops.ed.undo_push(message="Stroke")
    check.that(mask.is_dirty, "the stroke is in the mask")
    yield pause(1.0)
    check.shot("tiles_painting")
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    yield lambda: jobs.running() is None
    check.that(jobs.state.error is None, f"the tile is repaired ({jobs.state.error})")
    material = bpy.data.materials["tiles"]
    result = fed_by(material)
    files = {number: (check.output / f"tiles.{number}.png").read_bytes() for number in (1001, 1002)}
    check.that(result.source == "TILED" and result != source, "the result is a tiled image")
    check.that(kept(result).get(1001) == files[1001], "the tile that was not painted is the same file")
    check.that(kept(result).get(1002) not in (None, files[1002]), "the painted one is not")
    mask = bpy.context.scene.normal_inpaint.mask
    white = [white_in(check.output, kept(mask)[number]) for number in (1001, 1002)]
    check.that(white[0] == 0 and white[1] > 0, f"the paint is kept, in the second tile alone {white}")
    yield pause(2.0)
    check.shot("tiles_done")
    with override():
        bpy.ops.ed.undo()
    yield pause(0.5)
    material = bpy.data.materials["tiles"]
    mask = bpy.context.scene.normal_inpaint.mask
    check.that(fed_by(material).name == source.name, "one undo takes the repair of the tile back")
    again = [white_in(check.output, kept(mask)[number]) for number in (1001, 1002)]
    check.that(again == white, f"and leaves the paint {again}")
    with override():
        bpy.ops.ed.redo()
    yield pause(0.5)
    check.that(fed_by(bpy.data.materials["tiles"]).source == "TILED", "redo brings the tile back")
    result = fed_by(bpy.data.materials["tiles"])
    check.that(kept(result).get(1001) == files[1001], "with all of its tiles")
    with override():
        bpy.ops.normal_inpaint.inpaint("INVOKE_DEFAULT")
    yield lambda: jobs.running() is None
    check.that(jobs.state.error is None, f"and is repaired again ({jobs.state.error})")


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def main() -> None:
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    parser = argparse.ArgumentParser(prog="check_window")
    parser.add_argument("--zip", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--size", type=int, default=2048)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    bpy.context.preferences.view.show_splash = False
    check = Check(options.output)
    steps = stages(check, options.zip, options.size)
    waiting: list[Any] = [pause(2.0), time.monotonic()]

    def finish() -> None:
        check.write()
        sys.stdout.flush()
        os._exit(1 if check.failed else 0)

    def pump() -> float | None:
        ready, since = waiting
        if not ready():
            if time.monotonic() - since < PATIENCE:
                return 0.01
            check.that(False, f"a stage hung for {PATIENCE:.0f} s")
            check.shot("hung")
            finish()
        try:
            waiting[:] = [next(steps), time.monotonic()]
        except StopIteration:
            finish()
        except Exception:
            check.that(False, traceback.format_exc())
            finish()
        return 0.01

    bpy.app.timers.register(pump, first_interval=1.0)


main()
