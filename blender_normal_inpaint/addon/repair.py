"""One repair and one saving: prepared and finished on the main thread, worked out in the job's.

Whoever asks (an operator in a window, in a script, the api) walks the same three steps: `prepare` reads
everything from Blender, `work` touches none of it, `finish` changes the file in one go or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import bpy

from ..core.basemesh import Triangles
from ..core.engine import BoolArray, Cancel, Pixels, Progress
from ..core.errors import InpaintError
from ..core.normals import Encoding
from ..core.pipeline import Options, Result, inpaint, meet_tiles
from ..worker.client import WorkerClient, WorkerOptions
from . import images, jobs, maps, meshes, nodes, preferences, tiles
from .depth import FileFormat
from .properties import memory_of

#: How the steps share the progress bar.
_START, _END = 0.05, 0.95


@dataclass(frozen=True)
class Choices:
    """What the user chose, by the names of `properties`; "AUTO" asks the material."""

    space: str = "AUTO"
    green: str = "AUTO"
    up_axis: str = "Z"
    two_channel: bool = False
    grow: int = 0
    detail: bool = True
    symmetry: bool = True
    mesh: bool = True
    seed: int = 0


@dataclass
class Outcome(maps.Repaired):
    """What the thread brings back; its notices are all that there are to say."""

    seconds: float = 0.0


@dataclass
class Repair:
    """Everything one repair needs, free of references into Blender's data; `source` is a session's id."""

    source: int
    name: str
    map: maps.Plain | maps.Tiled
    alpha_mode: str
    path: str
    file_format: FileFormat
    encoding: Encoding
    options: Options
    worker: WorkerOptions
    place: nodes.Place | None
    notices: list[str] = field(default_factory=list)
    meshes: list[Triangles] = field(default_factory=list)

    def work(self, progress: Progress, cancel: Cancel) -> Outcome:
        """In the job's thread: the repair itself. See `core.pipeline.inpaint` for what it raises."""
        started = time.perf_counter()
        progress(0.0, "Preparing")
        client = jobs.client_for(self.worker)
        client.take_notices()

        def inner(fraction: float, text: str) -> None:
            progress(_START + fraction * (_END - _START), text)

        done = self.map.repaired(_Fix(self, client, cancel), client, inner, cancel)
        self.meshes.clear()
        notices = [*self.notices, *done.notices, *client.take_notices()]
        return Outcome(done.content, done.texels, notices, done.paint, time.perf_counter() - started)

    def finish(self, outcome: Outcome) -> bpy.types.Image:
        """On the main thread: the new image, and its node beside the source.

        Raises:
            InpaintError: Nothing was changed.
        """
        image = self.map.create(self.name, self.alpha_mode, outcome.content)
        try:
            memory = memory_of(image)
            memory.file_format = self.file_format.to_json()
            memory.file_path = self.path
            self._wire(image, outcome)
        except Exception as error:
            bpy.data.images.remove(image)
            raise InpaintError(
                "internal",
                f"The result could not be put into the material: {error}.",
                "Nothing was changed. Please report this.",
            ) from error
        return image

    def _wire(self, image: bpy.types.Image, outcome: Outcome) -> None:
        if self.place is None:
            outcome.notices.append(f'No material shows the map, so "{image.name}" was not connected.')
            image.use_fake_user = True
            return
        found = self.place.resolve()
        if found is None:
            outcome.notices.append(
                f'The map\'s node was removed meanwhile, so "{image.name}" was not connected.'
            )
            image.use_fake_user = True
            return
        tree, node = found
        if not nodes.editable(tree):
            outcome.notices.append(
                f'The material is linked from another file, so "{image.name}" was not connected.'
            )
            image.use_fake_user = True
            return
        nodes.insert_result(tree, node, image)


@dataclass
class _Fix:
    """See `maps.Fix`: with the choices of a repair, its meshes and its worker."""

    repair: Repair
    client: WorkerClient
    cancel: Cancel

    def one(
        self, pixels: Pixels, mask: BoolArray, valid: BoolArray | None, tile: int | None, part: Progress
    ) -> Result:
        """See there."""
        return inpaint(
            pixels,
            mask,
            self.client,
            encoding=self.repair.encoding,
            valid=valid,
            options=replace(self.repair.options, meet=tile is None),
            progress=part,
            cancel=self.cancel,
            overwrite=True,
            meshes=[base for mesh in self.repair.meshes if (base := mesh.base(tile)) is not None],
        )

    def meet(
        self, holes: Mapping[int, BoolArray], others: Collection[int], read: Callable[[int], Pixels]
    ) -> Iterator[tuple[int, Pixels]]:
        """See there."""
        return meet_tiles(self.repair.meshes, holes, others, read, self.repair.encoding)


def locate_image(
    material: bpy.types.Material | None, chosen: bpy.types.Image | None
) -> tuple[bpy.types.Image, nodes.Found | None]:
    """The image to repair, and where a material shows it (None where none does).

    Raises:
        InpaintError: `no_normal_map`.
    """
    if chosen is not None:
        return chosen, nodes.locate(material, chosen)
    found = nodes.find(material)
    return found.image, found


def _encoding(found: nodes.Found | None, choices: Choices, notices: list[str]) -> Encoding:
    space = choices.space.lower()
    if space == "auto":
        space = found.space if found is not None else ""
        if found is not None and found.negated:
            raise InpaintError(
                "unsupported_format",
                'The Normal Map node is set to "Blender Object Space" or "Blender World Space", an old kind '
                "of map with turned axes that cannot be repaired.",
                "Bake the map anew as Object Space and set the node to that; if the map is of another kind "
                "than the node says, set its space by hand in the panel's settings.",
            )
        if not space:
            space = "tangent"
            notices.append("No Normal Map node tells the map's space: it was taken for a tangent-space map.")
    y_axis = {"OPENGL": "up", "DIRECTX": "down"}.get(choices.green)
    if y_axis is None:
        y_axis = found.y_axis if found is not None else "up"
    return Encoding(space, y_axis, choices.up_axis.lower(), choices.two_channel)


def prepare(
    material: bpy.types.Material | None,
    image: bpy.types.Image | None,
    mask: bpy.types.Image | None,
    valid: bpy.types.Image | None,
    choices: Choices,
    wearer: bpy.types.Object | None = None,
) -> Repair:
    """Read everything a repair needs. Main thread.

    Args:
        material: Whose normal map to repair, and where to put the result.
        image: The map, where it is chosen by hand.
        mask: White where to repair.
        valid: White where there is skin; None to work it out.
        choices: The rest.
        wearer: Of the objects with that material the one that is meant.

    Raises:
        InpaintError: Something is missing or unfit; nothing was changed.
    """
    if mask is None:
        raise InpaintError("no_mask")
    source, found = locate_image(material, image)
    if mask == source:
        raise InpaintError(
            "no_mask",
            "The mask is the normal map itself.",
            "Choose another image as the mask, or make one with New Mask.",
        )
    tiled = any(tiles.is_tiled(each) for each in (source, mask, valid))
    read, file_format = (maps.read_tiled if tiled else maps.read_plain)(source, mask, valid)
    notices: list[str] = []
    encoding = _encoding(found, choices, notices)
    worn: list[Triangles] = []
    forms = encoding.space == "object"
    laid_out = encoding.space != "camera"
    if choices.mesh and laid_out and material is not None and found is not None:
        worn = meshes.of_map(material, found.place, wearer, forms, notices)
    return Repair(
        source=source.session_uid,
        name=source.name,
        map=read,
        alpha_mode=source.alpha_mode,
        path=_origin(source),
        file_format=file_format,
        encoding=encoding,
        options=Options(
            seed=choices.seed, dilate=choices.grow, detail=choices.detail, symmetry=choices.symmetry
        ),
        worker=preferences.worker_options(),
        place=found.place if found is not None else None,
        notices=notices,
        meshes=worn,
    )


def _origin(image: bpy.types.Image) -> str:
    """The path of the file that an image, or what it was made from, came from; "" if none."""
    if memory_of(image).file_path:
        return str(memory_of(image).file_path)
    return str(images.file_path(image)) if image.source in {"FILE", "TILED"} and image.filepath else ""
