"""From a material to the image of its normal map, and a result beside its source.

Links are followed the way the renderer does: through reroutes, node groups (nested), muted nodes. Colour
nodes between the image and the Normal Map node are worked out as long as they are affine in red, green and
blue (separate, invert green, combine, curves and the like): that tells a DirectX map from an OpenGL one.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import bpy

from ..core.errors import InpaintError

#: The stubs' base class lacks what each kind of node adds.
Node: TypeAlias = Any
Stack: TypeAlias = tuple[Node, ...]
#: What one number is made of: factors of red, green and blue, and a constant.
Row: TypeAlias = tuple[float, float, float, float]

#: Custom properties of nodes. A source's own mark; on a result's node its source's mark; and, only while
#: the source is shown, the links that the source had of its own. No names: users rename nodes.
MARK_KEY = "normal_inpaint_mark"
SOURCE_KEY = "normal_inpaint_source"
OWN_LINKS_KEY = "normal_inpaint_own_links"

_SPACES = {
    "TANGENT": "tangent",
    "OBJECT": "object",
    "WORLD": "object",
    "BLENDER_OBJECT": "object",
    "BLENDER_WORLD": "object",
}
_DEPTH = 64
_GAP = 60.0
_NODE_HEIGHT = 280.0


@dataclass(frozen=True)
class Place:
    """An Image Texture node, found again by what survives undo: ids of its tree and its image, its name."""

    material: int
    group: int | None
    node: str
    image: int

    def resolve(self) -> tuple[bpy.types.NodeTree, Node] | None:
        """The tree and the node, or None if either is gone."""
        tree: bpy.types.NodeTree | None = None
        if self.group is not None:
            tree = next((item for item in bpy.data.node_groups if item.session_uid == self.group), None)
        else:
            owner = next((item for item in bpy.data.materials if item.session_uid == self.material), None)
            tree = owner.node_tree if owner is not None else None
        if tree is None:
            return None
        node: Node = tree.nodes.get(self.node)
        if node is None:  # renamed, perhaps
            textures: list[Node] = [item for item in tree.nodes if item.bl_idname == "ShaderNodeTexImage"]
            shows = (item for item in textures if item.image and item.image.session_uid == self.image)
            node = next(shows, None)
        return None if node is None else (tree, node)


@dataclass(frozen=True)
class Found:
    """A normal map in a material.

    `space` is "tangent", "object" or "" where no Normal Map node says; `y_axis` is "up" or "down"; `depth`
    of Blender's two old object modes tells that y and z are stored negated.
    """

    image: bpy.types.Image
    place: Place
    space: str = ""
    y_axis: str = "up"
    negated: bool = False


class _Unfollowed(Exception):  # noqa: N818 - becomes an InpaintError at the edge
    """A colour node that cannot be worked out."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


# Following links --------------------------------------------------------------------------------------


def _by_identifier(sockets: Any, identifier: str) -> bpy.types.NodeSocket | None:
    return next((socket for socket in sockets if socket.identifier == identifier), None)


def _group_output(tree: bpy.types.NodeTree) -> Node | None:
    outputs: list[Node] = [node for node in tree.nodes if node.bl_idname == "NodeGroupOutput"]
    return next((node for node in outputs if node.is_active_output), outputs[0] if outputs else None)


def driver(
    socket: bpy.types.NodeSocket | None, stack: Stack
) -> tuple[Node, bpy.types.NodeSocket, Stack] | None:
    """What really feeds an input: the node, its output socket, and the groups it is nested in."""
    for _ in range(_DEPTH):
        if socket is None:
            return None
        link = next((item for item in socket.links if not item.is_muted), None)
        if link is None:
            return None
        node, out = link.from_node, link.from_socket
        if node is None or out is None:
            return None
        if node.bl_idname == "NodeReroute":
            socket = node.inputs[0]
        elif node.mute:
            inner = next((item for item in node.internal_links if item.to_socket == out), None)
            socket = inner.from_socket if inner is not None else None
        elif node.bl_idname == "ShaderNodeGroup":
            if node.node_tree is None:
                return None
            end = _group_output(node.node_tree)
            stack = (*stack, node)
            socket = _by_identifier(end.inputs, out.identifier) if end is not None else None
        elif node.bl_idname == "NodeGroupInput":
            if not stack:
                return None
            socket = _by_identifier(stack[-1].inputs, out.identifier)
            stack = stack[:-1]
        else:
            return node, out, stack
    return None


def _upstream(material: bpy.types.Material) -> Iterator[tuple[Node, Stack]]:
    """Every node that the active output depends on, nearest first."""
    output = material.node_tree.get_output_node("ALL")
    if output is None:
        return
    waiting: list[tuple[bpy.types.NodeSocket, Stack]] = [(socket, ()) for socket in output.inputs]
    seen = set()
    while waiting:
        following = []
        for socket, stack in waiting:
            found = driver(socket, stack)
            if found is None:
                continue
            node, _, inner = found
            key = (node.as_pointer(), *(item.as_pointer() for item in inner))
            if key in seen:
                continue
            seen.add(key)
            yield node, inner
            following += [(item, inner) for item in node.inputs if item.is_linked]
        waiting = following


def _everywhere(tree: bpy.types.NodeTree, stack: Stack = ()) -> Iterator[tuple[Node, Stack]]:
    node: Node
    for node in tree.nodes:
        yield node, stack
        if node.bl_idname == "ShaderNodeGroup" and node.node_tree is not None and len(stack) < _DEPTH:
            yield from _everywhere(node.node_tree, (*stack, node))


# Colour nodes -----------------------------------------------------------------------------------------


def _constant(value: float) -> Row:
    return (0.0, 0.0, 0.0, float(value))


def _combine(*terms: tuple[float, Row]) -> Row:
    r, g, b, one = (sum(factor * row[index] for factor, row in terms) for index in range(4))
    return (r, g, b, one)


def _fixed(row: Row, node: Node) -> float:
    """The number a row stands for, if no channel takes part."""
    if any(abs(value) > 1e-6 for value in row[:3]):
        raise _Unfollowed(node)
    return row[3]


class _Colour:
    """Works out what arrives at a colour input in terms of one image's channels."""

    def __init__(self) -> None:
        self.texture: tuple[Node, Stack] | None = None

    def rows(self, socket: bpy.types.NodeSocket, stack: Stack, depth: int = 0) -> list[Row]:
        """Three rows for a colour or vector, three equal ones for a number."""
        found = driver(socket, stack)
        if found is None:
            value = getattr(socket, "default_value", 0.0)
            values = [value] * 3 if isinstance(value, int | float) else list(value)[:3]
            return [_constant(item) for item in values]
        node, out, inner = found
        if depth > _DEPTH:
            raise _Unfollowed(node)
        if node.bl_idname == "ShaderNodeTexImage":
            if self.texture is not None and self.texture[0] != node:
                raise _Unfollowed(node)
            if out.identifier != "Color":
                raise _Unfollowed(node)
            self.texture = (node, inner)
            return [(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)]
        handler = _HANDLERS.get(node.bl_idname)
        if handler is None:
            raise _Unfollowed(node)
        inputs = [self.rows(item, inner, depth + 1) if item.enabled else [] for item in node.inputs]
        return handler(node, out, inputs)


def _separate(node: Node, out: bpy.types.NodeSocket, inputs: list[list[Row]]) -> list[Row]:
    if getattr(node, "mode", "RGB") != "RGB":
        raise _Unfollowed(node)
    index = list(node.outputs).index(out)
    return [inputs[0][index]] * 3


def _join(node: Node, out: bpy.types.NodeSocket, inputs: list[list[Row]]) -> list[Row]:
    if getattr(node, "mode", "RGB") != "RGB":
        raise _Unfollowed(node)
    return [inputs[index][0] for index in range(3)]


def _invert(node: Node, out: bpy.types.NodeSocket, inputs: list[list[Row]]) -> list[Row]:
    factor = _fixed(inputs[0][0], node)
    return [_combine((1.0 - 2.0 * factor, row), (factor, _constant(1.0))) for row in inputs[1]]


def _arithmetic(operation: str, node: Node, values: list[Row]) -> Row:
    first, second = values[0], values[1] if len(values) > 1 else _constant(0.0)
    if operation == "ADD":
        return _combine((1.0, first), (1.0, second))
    if operation == "SUBTRACT":
        return _combine((1.0, first), (-1.0, second))
    if operation in ("MULTIPLY", "MULTIPLY_ADD"):
        if any(abs(value) > 1e-6 for value in first[:3]):
            product = _combine((_fixed(second, node), first))
        else:
            product = _combine((_fixed(first, node), second))
        return product if operation == "MULTIPLY" else _combine((1.0, product), (1.0, values[2]))
    if operation == "DIVIDE" and abs(_fixed(second, node)) > 1e-6:
        return _combine((1.0 / _fixed(second, node), first))
    raise _Unfollowed(node)


def _math(node: Node, out: bpy.types.NodeSocket, inputs: list[list[Row]]) -> list[Row]:
    values = [item[0] for item in inputs if item]
    return [_arithmetic(node.operation, node, values)] * 3


def _vector_math(node: Node, out: bpy.types.NodeSocket, inputs: list[list[Row]]) -> list[Row]:
    values = [item for item in inputs if item]
    operation = node.operation
    if operation == "SCALE":
        factor = _fixed(values[-1][0], node)
        return [_combine((factor, row)) for row in values[0]]
    return [_arithmetic(operation, node, [item[index] for item in values]) for index in range(3)]


def _curves(node: Node, out: bpy.types.NodeSocket, inputs: list[list[Row]]) -> list[Row]:
    factor = _fixed(inputs[0][0], node)
    mapping = node.mapping
    mapping.initialize()
    result = []
    for index, row in enumerate(inputs[1]):
        # The combined curve comes first, then the channel's own.
        samples = [
            mapping.evaluate(mapping.curves[index], mapping.evaluate(mapping.curves[3], at / 4.0))
            for at in range(5)
        ]
        start, slope = samples[0], samples[4] - samples[0]
        if any(abs(start + slope * at / 4.0 - value) > 2e-3 for at, value in enumerate(samples)):
            raise _Unfollowed(node)
        bent = _combine((slope, row), (start, _constant(1.0)))
        result.append(_combine((1.0 - factor, row), (factor, bent)))
    return result


_HANDLERS = {
    "ShaderNodeSeparateColor": _separate,
    "ShaderNodeSeparateRGB": _separate,
    "ShaderNodeSeparateXYZ": _separate,
    "ShaderNodeCombineColor": _join,
    "ShaderNodeCombineRGB": _join,
    "ShaderNodeCombineXYZ": _join,
    "ShaderNodeInvert": _invert,
    "ShaderNodeMath": _math,
    "ShaderNodeVectorMath": _vector_math,
    "ShaderNodeRGBCurve": _curves,
}


def _y_axis(rows: list[Row], node: Node) -> str:
    """Which green direction an image has whose channels arrive like this at an OpenGL input."""
    for y_axis, green in (("up", (0.0, 1.0, 0.0, 0.0)), ("down", (0.0, -1.0, 0.0, 1.0))):
        wanted = [(1.0, 0.0, 0.0, 0.0), green, (0.0, 0.0, 1.0, 0.0)]
        pairs = zip(rows, wanted, strict=True)
        if all(abs(a - b) < 5e-3 for row, other in pairs for a, b in zip(row, other, strict=True)):
            return y_axis
    raise _Unfollowed(node)


# Finding ----------------------------------------------------------------------------------------------


def _place(material: bpy.types.Material, node: Node, stack: Stack) -> Place:
    group = stack[-1].node_tree.session_uid if stack else None
    return Place(material.session_uid, group, node.name, node.image.session_uid)


def _from_normal_node(material: bpy.types.Material, node: Node, stack: Stack) -> Found | None:
    """The map behind one Normal Map node, None if there is no image.

    Raises:
        InpaintError: `no_normal_map` if a colour node in between cannot be worked out.
    """
    socket = _by_identifier(node.inputs, "Color")
    if socket is None or driver(socket, stack) is None:
        return None
    colour = _Colour()
    try:
        rows = colour.rows(socket, stack)
        if colour.texture is None:
            return None
        texture, inner = colour.texture
        if texture.image is None:
            return None
        y_axis = _y_axis(rows, _in_between(socket, stack))
    except _Unfollowed as error:
        title = error.node.label or error.node.name
        raise InpaintError(
            "no_normal_map",
            f'The node "{title}" between the image and the Normal Map node changes the map in a way that '
            "cannot be worked out.",
            "Choose the image, its space and its green direction by hand in the panel.",
        ) from error
    if getattr(node, "convention", "OPENGL") == "DIRECTX":
        y_axis = "up" if y_axis == "down" else "down"
    space = _SPACES.get(node.space, "")
    return Found(
        texture.image, _place(material, texture, inner), space, y_axis, node.space.startswith("BLENDER_")
    )


def _in_between(socket: bpy.types.NodeSocket, stack: Stack) -> Node:
    found = driver(socket, stack)
    assert found is not None
    return found[0]


def find(material: bpy.types.Material | None, chosen: bpy.types.Image | None = None) -> Found:
    """The normal map of a material.

    Args:
        material: Usually the active one.
        chosen: An image chosen by hand: only nodes with that image are considered.

    Raises:
        InpaintError: `no_normal_map` if there is none (never for a chosen image that no node shows: use
            `locate` for those).
    """
    found = locate(material, chosen)
    if found is None:
        raise InpaintError("no_normal_map")
    return found


def locate(material: bpy.types.Material | None, chosen: bpy.types.Image | None = None) -> Found | None:
    """As `find`, None where there is no such node.

    Raises:
        InpaintError: `no_normal_map` if the map is there but cannot be worked out.
    """
    if material is None or material.node_tree is None:
        return None
    nodes = list(_upstream(material))
    if not any(node.bl_idname == "ShaderNodeNormalMap" for node, _ in nodes):
        nodes += list(_everywhere(material.node_tree))
    trouble: InpaintError | None = None
    for node, stack in nodes:
        if node.bl_idname != "ShaderNodeNormalMap":
            continue
        try:
            found = _from_normal_node(material, node, stack)
        except InpaintError as error:
            trouble = trouble or error
            continue
        if found is not None and chosen in (None, found.image):
            return found
    if chosen is not None:
        for node, stack in [*nodes, *_everywhere(material.node_tree)]:
            if node.bl_idname == "ShaderNodeTexImage" and node.image == chosen:
                return Found(chosen, _place(material, node, stack))
        return None
    if trouble is not None:
        raise trouble
    return None


# The result -------------------------------------------------------------------------------------------


def _copy_settings(source: Node, target: Node) -> None:
    for name in ("projection", "projection_blend", "interpolation", "extension"):
        setattr(target, name, getattr(source, name))
    for name in ("width", "hide", "parent", "use_custom_color", "color"):
        setattr(target, name, getattr(source, name))
    for group in ("texture_mapping", "color_mapping"):
        theirs, ours = getattr(source, group), getattr(target, group)
        for entry in theirs.bl_rna.properties:
            if not entry.is_readonly and entry.identifier != "rna_type":
                setattr(ours, entry.identifier, getattr(theirs, entry.identifier))


def editable(tree: bpy.types.NodeTree) -> bool:
    """Whether nodes can be added: not in data linked from another file."""
    owner = tree.id_data
    return owner.library is None and tree.library is None


def _links_of(node: Node) -> list[Any]:
    return [link for out in node.outputs for link in out.links]


def _move_links(
    tree: bpy.types.NodeTree, links: list[tuple[str, bpy.types.NodeSocket]], target: Node
) -> None:
    for out, socket in links:
        tree.links.new(target.outputs[out], socket)


def insert_result(tree: bpy.types.NodeTree, source: Node, image: bpy.types.Image) -> Node:
    """A new Image Texture node below the source, with its settings, input and links. Undoes a half step.

    Raises:
        Exception: Whatever Blender raised; the tree is as it was.
    """
    hidden = _pair_of(tree, source)
    if hidden is not None and hidden.result == source and hidden.shows_source:
        show_result(hidden)  # chosen by hand while its source was shown: the new result is to be seen
    moved = [(link.from_socket.identifier, link.to_socket) for link in _links_of(source)]
    feeding = source.inputs[0].links[0].from_socket if source.inputs[0].is_linked else None
    node: Node = tree.nodes.new("ShaderNodeTexImage")
    try:
        node.image = image
        _copy_settings(source, node)
        x, y = source.location
        node.location = (x, y - (_GAP if source.hide else _NODE_HEIGHT))
        node.select = False
        if feeding is not None:
            tree.links.new(feeding, node.inputs[0])
        _move_links(tree, moved, node)
    except Exception:
        tree.nodes.remove(node)
        _move_links(tree, moved, source)
        raise
    # A new mark each time: an older result, hidden for a comparison, is no longer this source's counterpart.
    source[MARK_KEY] = node[SOURCE_KEY] = uuid.uuid4().hex
    return node


# Comparing --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A result's node, its source's node, and which of them is shown."""

    tree: bpy.types.NodeTree
    result: Node
    source: Node

    @property
    def shows_source(self) -> bool:
        """Whether the material shows the map as it was before."""
        return OWN_LINKS_KEY in self.result


def _pair_of(tree: bpy.types.NodeTree, node: Node) -> Pair | None:
    """The pair that a node is the shown half of, or the hidden one."""
    mark = node.get(MARK_KEY)
    other: Node
    for other in tree.nodes:
        # The source of a result can be another one's result: what is hidden for a comparison comes first.
        if mark and other.get(SOURCE_KEY) == mark and OWN_LINKS_KEY in other:
            return Pair(tree, other, node)
    mark = node.get(SOURCE_KEY)
    for other in tree.nodes:
        if mark and other.get(MARK_KEY) == mark:
            return Pair(tree, node, other)
    return None


def find_pair(material: bpy.types.Material | None, chosen: bpy.types.Image | None = None) -> Pair | None:
    """The result in a material that can be compared with its source; None if there is none.

    Args:
        material: Usually the active one.
        chosen: The map that was chosen by hand, if one was.
    """
    try:
        found = locate(material, chosen)
    except InpaintError:
        return None
    place = found.place.resolve() if found is not None else None
    return _pair_of(*place) if place is not None else None


def _noted(links: list[Any]) -> list[list[str]]:
    return [[link.from_socket.identifier, link.to_node.name, link.to_socket.identifier] for link in links]


def show_source(pair: Pair) -> None:
    """Let the source feed what the result feeds, remembering what it feeds anyway."""
    pair.result[OWN_LINKS_KEY] = json.dumps(_noted(_links_of(pair.source)))
    links = [(link.from_socket.identifier, link.to_socket) for link in _links_of(pair.result)]
    _move_links(pair.tree, links, pair.source)


def show_result(pair: Pair) -> None:
    """Give the result back what the source feeds in its place."""
    own = json.loads(str(pair.result[OWN_LINKS_KEY]))
    del pair.result[OWN_LINKS_KEY]
    links = _links_of(pair.source)
    taken = [link for link, noted in zip(links, _noted(links), strict=True) if noted not in own]
    _move_links(pair.tree, [(link.from_socket.identifier, link.to_socket) for link in taken], pair.result)
