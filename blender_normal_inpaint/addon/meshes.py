"""The meshes that wear a map, read from Blender: where it shows skin, and an object-space map's forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bpy
import numpy as np

from ..core.basemesh import MOST, Triangles
from . import nodes


def of_map(
    material: bpy.types.Material,
    place: nodes.Place,
    wearer: bpy.types.Object | None,
    forms: bool,
    notices: list[str],
) -> list[Triangles]:
    """The meshes that show a map. Main thread.

    Args:
        material: That shows it.
        place: The map's node in it.
        wearer: The object that is meant.
        forms: Whether their forms matter: then that object's mesh comes as it is edited and, if anything
            changes it, as it is seen.
        notices: What the user should know is added to them.

    Returns:
        No mesh if no object wears the material, or the layout cannot be told.
    """
    told, layer = _layer(place)
    if not told:
        return []
    result: list[Triangles] = []
    done: set[bpy.types.ID | None] = set()
    # The one that is meant comes first.
    for thing in sorted(bpy.data.objects, key=lambda thing: thing != wearer):
        slots = _slots(thing, material)
        if not slots or thing.data in done:
            continue
        read, too_many = [], 0
        for mesh in _versions(thing, forms and not done):
            mesh.calc_loop_triangles()
            count = len(mesh.loop_triangles)
            raw = _read(mesh, slots, layer) if count <= MOST else None
            read += [raw] if raw is not None else []
            too_many = count if count > MOST else too_many
        if not read and too_many:
            notices.append(
                f'The mesh of "{thing.name}" was not used: it has {too_many:,} triangles, and {MOST:,} '
                "can be used at most."
            )
        result += read
        done.add(thing.data)
    return result


def _layer(place: nodes.Place) -> tuple[bool, str]:
    """Whether it is clear which UV map a node's image is laid out by; and its name, "" for the usual one."""
    found = place.resolve()
    if found is None or found[1].projection != "FLAT":
        return False, ""
    source = nodes.driver(found[1].inputs["Vector"], ())
    if source is None:
        return True, ""
    node, out, _ = source
    if node.bl_idname == "ShaderNodeUVMap":
        return True, node.uv_map
    return node.bl_idname == "ShaderNodeTexCoord" and out.identifier == "UV", ""


def _slots(thing: bpy.types.Object, material: bpy.types.Material) -> list[int]:
    """The numbers of an object's slots with a material, if it is a mesh."""
    if thing.type != "MESH":
        return []
    return [index for index, slot in enumerate(thing.material_slots) if slot.material == material]


def _versions(thing: bpy.types.Object, seen_too: bool) -> Iterator[bpy.types.Mesh]:
    """An object's mesh as it is edited and, if asked for and different, as it is seen; each in turn."""
    mesh: Any = thing.data
    yield mesh
    if seen_too and (thing.modifiers or mesh.shape_keys is not None):
        seen = thing.evaluated_get(bpy.context.evaluated_depsgraph_get())
        try:
            changed = seen.to_mesh()
        except RuntimeError:  # not in this view layer
            return
        if changed is not None:
            yield changed
        seen.to_mesh_clear()


def _read(mesh: bpy.types.Mesh, slots: list[int], layer: str) -> Triangles | None:
    """The part of a mesh, cut into triangles, that wears a material of some slots; None if it is nothing."""
    uv_layer: Any = mesh.uv_layers.get(layer) if layer else None
    if uv_layer is None:
        uv_layer = next((each for each in mesh.uv_layers if each.active_render), None)
    if uv_layer is None or not len(uv_layer.uv):
        return None
    count = len(mesh.loop_triangles)
    if not count:
        return None
    loops, corners = np.empty(3 * count, np.int32), np.empty(3 * count, np.int32)
    material = np.empty(count, np.int32)
    mesh.loop_triangles.foreach_get("loops", loops)
    mesh.loop_triangles.foreach_get("vertices", corners)
    mesh.loop_triangles.foreach_get("material_index", material)
    uv = np.empty(2 * len(uv_layer.uv), np.float32)
    uv_layer.uv.foreach_get("vector", uv)
    vertices = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", vertices)
    worn = np.isin(material, slots)
    places = uv.reshape(-1, 2)[loops.reshape(-1, 3)[worn]]
    if not worn.any() or not np.isfinite(vertices).all() or not np.isfinite(places).all():
        return None
    return Triangles(vertices.reshape(-1, 3), corners.reshape(-1, 3)[worn], places)
