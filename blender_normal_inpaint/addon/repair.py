"""One repair and one saving: prepared and finished on the main thread, worked out in the job's.

Whoever asks (an operator in a window, in a script, the api) walks the same three steps: `prepare` reads
everything from Blender, `work` touches none of it, `finish` changes the file in one go or not at all.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field

import bpy

from ..core.engine import BoolArray, Cancel, FloatArray, Pixels, Progress
from ..core.errors import InpaintError
from ..core.normals import Encoding
from ..core.pipeline import Options, inpaint
from ..worker.client import WorkerOptions
from . import images, jobs, meshes, nodes, png, preferences
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
class _Mask:
    """A mask image's pixels on their way to bool."""

    raw: images.RawPixels
    threshold: float

    def to_bool(self) -> BoolArray:
        return self.raw.to_mask(self.threshold)


@dataclass
class Paint:
    """A painted mask as a PNG file; `image` is a session's id, `checksum` that of Blender's buffer."""

    image: int
    content: bytes
    checksum: int

    @staticmethod
    def of(image: int, raw: images.RawPixels) -> Paint:
        """In the job's thread."""
        pixels = (raw.grey() or raw).to_native("uint8")
        return Paint(image, png.encode(pixels), zlib.crc32(raw.buffer.data))

    def keep(self) -> bool:
        """On the main thread: pack the mask with its paint, unless it was painted on meanwhile."""
        image = next((item for item in bpy.data.images if item.session_uid == self.image), None)
        if image is None or not images.holds_unsaved_paint(image):
            return False
        if zlib.crc32(images.read(image).buffer.data) != self.checksum:
            return False
        images.keep_paint(image, self.content)
        return True


@dataclass
class Outcome:
    """What the thread brings back: pixels ready for Blender (see `create_result`), and what to say."""

    content: FloatArray | bytes
    texels: int
    notices: list[str]
    seconds: float
    paint: Paint | None = None


@dataclass
class Repair:
    """Everything one repair needs, free of references into Blender's data; `source` is a session's id."""

    source: int
    name: str
    width: int
    height: int
    is_float: bool
    alpha_mode: str
    path: str
    file_format: FileFormat
    encoding: Encoding
    options: Options
    worker: WorkerOptions
    place: nodes.Place | None
    notices: list[str] = field(default_factory=list)
    # Taken, and so freed, by `work`.
    raw: images.RawPixels | None = None
    mask: _Mask | None = None
    valid: _Mask | None = None
    meshes: list[meshes.RawMesh] = field(default_factory=list)
    #: The mask's image (a session's id) if its paint would be lost by an undo; 0 otherwise.
    unsaved: int = 0

    def work(self, progress: Progress, cancel: Cancel) -> Outcome:
        """In the job's thread: the repair itself. See `core.pipeline.inpaint` for what it raises."""
        started = time.perf_counter()
        progress(0.0, "Preparing")
        assert self.raw is not None and self.mask is not None
        mask = self.mask.to_bool()
        paint = Paint.of(self.unsaved, self.mask.raw) if self.unsaved else None
        self.mask = None
        valid = self.valid.to_bool() if self.valid is not None else None
        self.valid = None
        pixels: Pixels = self.raw.to_native(self.file_format.dtype)
        self.raw = None
        bases = [mesh.to_base() for mesh in self.meshes]
        self.meshes.clear()
        client = jobs.client_for(self.worker)
        client.take_notices()

        def inner(fraction: float, text: str) -> None:
            progress(_START + fraction * (_END - _START), text)

        result = inpaint(
            pixels,
            mask,
            client,
            encoding=self.encoding,
            valid=valid,
            options=self.options,
            progress=inner,
            cancel=cancel,
            overwrite=True,
            meshes=bases,
        )
        del pixels
        progress(_END, "Finishing")
        content = images.to_buffer(result.pixels) if self.is_float else png.encode(result.pixels)
        return Outcome(
            content,
            result.hole_texels,
            [*self.notices, *result.notices, *client.take_notices()],
            time.perf_counter() - started,
            paint,
        )

    def finish(self, outcome: Outcome) -> bpy.types.Image:
        """On the main thread: the new image, and its node beside the source.

        Raises:
            InpaintError: Nothing was changed.
        """
        image = images.create_result(
            images.result_name(self.name),
            (self.width, self.height),
            alpha_mode=self.alpha_mode,
            content=outcome.content,
        )
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


def _read_mask(image: bpy.types.Image, role: str) -> _Mask:
    images.check_readable(image, role)
    return _Mask(images.read(image), images.mask_threshold(image))


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
    images.check_readable(source)
    raw = images.read(source)
    images.check_color_space(source, raw)
    notices: list[str] = []
    width, height = images.size_of(source)
    encoding = _encoding(found, choices, notices)
    worn: list[meshes.RawMesh] = []
    forms = encoding.space == "object"
    laid_out = encoding.space != "camera"
    if choices.mesh and laid_out and material is not None and found is not None:
        worn = meshes.of_map(material, found.place, wearer, forms)
    return Repair(
        source=source.session_uid,
        name=source.name,
        width=width,
        height=height,
        is_float=source.is_float,
        alpha_mode=source.alpha_mode,
        path=_origin(source),
        file_format=images.format_of(source),
        encoding=encoding,
        options=Options(
            seed=choices.seed, dilate=choices.grow, detail=choices.detail, symmetry=choices.symmetry
        ),
        worker=preferences.worker_options(),
        place=found.place if found is not None else None,
        notices=notices,
        raw=raw,
        mask=_read_mask(mask, "mask"),
        valid=_read_mask(valid, "valid area") if valid is not None else None,
        meshes=worn,
        unsaved=mask.session_uid if images.holds_unsaved_paint(mask) else 0,
    )


def _origin(image: bpy.types.Image) -> str:
    """The path of the file that an image, or what it was made from, came from; "" if none."""
    if memory_of(image).file_path:
        return str(memory_of(image).file_path)
    return str(images.file_path(image)) if image.source == "FILE" and image.filepath else ""
