"""What a console or a script calls: no window, no active object, no operator needed.

from bl_ext.user_default.normal_inpaint.addon import api

result = api.inpaint(mask=bpy.data.images["mask"])                  # the active material's map
result = api.inpaint(image="face.png", mask="face_mask.png", space="camera")
api.save_result(result, "/tmp/face_fixed.png")
done = api.inpaint_files([("a.png", "a_mask.png"), ("b.<UDIM>.exr", "b_mask.<UDIM>.png")], "/tmp/out")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import bpy

from ..core import udim
from ..core.errors import InpaintError
from . import images, jobs, repair, save, tiles
from .operators import active_material
from .properties import settings_of

ImageLike: TypeAlias = bpy.types.Image | str | None


def _named(image: ImageLike, role: str) -> bpy.types.Image | None:
    if not isinstance(image, str):
        return image
    found = bpy.data.images.get(image)
    if found is None:
        raise InpaintError(
            "no_pixels", f'There is no image "{image}" in this file.', f"Name the {role} as it is listed."
        )
    return found


def _choices(space: str, green: str, up_axis: str, **others: Any) -> repair.Choices:
    """Choices by the names of the panel's settings, in small letters as scripts give them."""
    return repair.Choices(space.upper(), green.upper(), up_axis.upper(), **others)


def inpaint(
    image: ImageLike = None,
    mask: ImageLike = None,
    *,
    valid: ImageLike = None,
    material: bpy.types.Material | None = None,
    space: str = "auto",
    green: str = "auto",
    up_axis: str = "z",
    two_channel: bool = False,
    grow: int = 0,
    detail: bool = True,
    symmetry: bool = True,
    mesh: bool = True,
    seed: int = 0,
    progress: Callable[[float, str], None] | None = None,
) -> bpy.types.Image:
    """Repair a normal map and wait for it.

    Args:
        image: The map, or its name; None for the material's.
        mask: White where to repair; the scene's chosen mask if None.
        valid: White where there is skin; None to work it out, from the mesh and the map.
        material: Whose map to repair, and where the result goes; None for the active object's.
        space: "auto", "tangent", "object" or "camera".
        green: "auto", "opengl" (up) or "directx" (down).
        up_axis: "z" or "y", of object-space maps.
        two_channel: Whether blue is worked out from red and green.
        grow: Texels by which the mask is widened.
        detail: Whether fine detail is continued into the hole.
        symmetry: Whether the face's other half may tell what lies in it.
        mesh: Whether the mesh that wears the map may tell where it shows skin and where its other half is
            and, in object space, show what is hidden.
        seed: Another number gives other detail.
        progress: Told how far it is, 0..1, and what it does.

    Returns:
        The new image: Non-Color, packed, shown by the material in the map's place if it showed the map.

    Raises:
        InpaintError: With a code, a sentence and a hint; nothing was changed.
        ValueError: `space`, `green` or `up_axis` is none of the above.
    """
    for value, known in (
        (space, ("auto", "tangent", "object", "camera")),
        (green, ("auto", "opengl", "directx")),
        (up_axis, ("y", "z")),
    ):
        if value not in known:
            raise ValueError(f"{value!r} is none of {', '.join(known)}")
    if mask is None:
        mask = settings_of(bpy.context.scene).mask
    choices = _choices(
        space,
        green,
        up_axis,
        two_channel=two_channel,
        grow=grow,
        detail=detail,
        symmetry=symmetry,
        mesh=mesh,
        seed=seed,
    )
    if jobs.running() is not None:
        raise InpaintError("busy")
    task = repair.prepare(
        material or active_material(bpy.context),
        _named(image, "normal map"),
        _named(mask, "mask"),
        _named(valid, "valid area"),
        choices,
        bpy.context.view_layer.objects.active,
    )
    outcome = jobs.wait(jobs.begin(task.work), progress)
    result = task.finish(outcome)
    jobs.state.notices = outcome.notices
    return result


def save_result(image: bpy.types.Image, path: str | Path) -> Path:
    """Write an image made by `inpaint` with the type and depth of its source, and wait for it.

    Raises:
        InpaintError: `unsupported_format`, `not_writable`, `disk_full`, or what else went wrong; a file
            that was there before is as it was.
    """
    task = save.prepare(image, Path(path))
    jobs.wait(jobs.begin(task.work))
    return task.path


def notices() -> list[str]:
    """What the last repair wants the user to know."""
    return list(jobs.state.notices)


def inpaint_files(
    pairs: Iterable[tuple[str | Path, str | Path]],
    output: str | Path,
    *,
    space: str = "tangent",
    green: str = "opengl",
    up_axis: str = "z",
    two_channel: bool = False,
    grow: int = 0,
    detail: bool = True,
    symmetry: bool = True,
    seed: int = 0,
) -> tuple[list[Path], list[tuple[Path, InpaintError]]]:
    """Repair files, each with its mask; a bad one does not stop the others.

    Args:
        pairs: Map and mask files; "<UDIM>" in a path stands for the numbers of all of its tiles.
        output: The folder for the results, which keep their maps' names.
        space: As for `inpaint`, but not "auto": no material tells.
        green: Likewise.
        up_axis: As for `inpaint`.
        two_channel: As for `inpaint`.
        grow: As for `inpaint`.
        detail: As for `inpaint`.
        symmetry: As for `inpaint`.
        seed: As for `inpaint`.

    Returns:
        The files written, and the maps that failed with their errors. Nothing stays in the .blend.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    done: list[Path] = []
    failed: list[tuple[Path, InpaintError]] = []
    choices = _choices(
        space, green, up_axis, two_channel=two_channel, grow=grow, detail=detail, symmetry=symmetry, seed=seed
    )
    for source, mask in pairs:
        loaded: list[bpy.types.Image] = []
        try:
            image, white = _load(Path(source), loaded), _load(Path(mask), loaded)
            task = repair.prepare(None, image, white, None, choices)
            result = task.finish(jobs.wait(jobs.begin(task.work)))
            loaded.append(result)
            done.append(save_result(result, folder / Path(source).name))
        except InpaintError as error:
            failed.append((Path(source), error))
        finally:
            for item in loaded:
                bpy.data.images.remove(item)
    return done, failed


def _load(path: Path, loaded: list[bpy.types.Image]) -> bpy.types.Image:
    path = path.resolve()
    try:
        tiled = udim.is_pattern(path)
        image = tiles.load(path) if tiled else bpy.data.images.load(str(path), check_existing=False)
    except RuntimeError as error:
        raise InpaintError(
            "unreadable", f"The image file {path.name} could not be read.", detail=str(error)
        ) from error
    loaded.append(image)
    image.colorspace_settings.name = "Non-Color"
    images.check_readable(image)
    return image
