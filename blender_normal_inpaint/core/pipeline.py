"""The whole job, for every caller: check, cut, fill, encode, paste."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from . import basemesh
from . import regions as planning
from .basemesh import BaseMesh, Frames, Triangles
from .engine import (
    BoolArray,
    Cancel,
    Crop,
    Filler,
    FloatArray,
    Pixels,
    Progress,
    Wide,
    never_cancel,
    no_progress,
)
from .errors import Cancelled, InpaintError
from .head import Head
from .morphable import packed
from .normals import Encoding, check_pixels, decode_vectors, dot, has_direction
from .otherhalf import HeadHalf, OtherHalf, around, of_layout
from .regions import Box, Region
from .seams import meeting, meeting_of_tiles
from .source import Source, strips
from .target import Target

#: Shortest and longest side of a map.
SMALLEST, LARGEST = 16, 16384

#: The share of empty texels on a mesh's islands, in per cent of the map, that is worth a word: not their rim.
_RIM = 2.0

#: Two images have the same proportions if these differ by no more than this share.
_SAME_ASPECT = 0.01


@dataclass(frozen=True)
class Options:
    """What a user may choose about a repair.

    Args:
        seed: Another seed gives other pores on the same shape; the same seed the same texels. With seed 0 the
            face's other half gives its own pores, where it shows them.
        dilate: Texels by which the mask is grown first, in all eight directions.
        detail: Whether fine detail is continued into the hole.
        symmetry: Whether the face's other half may tell what lies in the hole.
        meet: Whether both sides of a layout's seams are made to meet where a mesh tells of them. For tiles
            that are repaired one by one `meet_tiles` does it when all are.
    """

    seed: int = 0
    dilate: int = 0
    detail: bool = True
    symmetry: bool = True
    meet: bool = True


@dataclass(frozen=True)
class Result:
    """A repaired map.

    `pixels` has the source's shape and type; `repaired` marks the texels that were replaced, all others
    have the source's bits. `notices` are sentences that the user should see.
    """

    pixels: Pixels
    repaired: BoolArray
    hole_texels: int
    regions: int
    notices: list[str] = field(default_factory=list)
    seconds: float = 0.0


def fit_mask(mask: BoolArray, height: int, width: int, name: str = "mask") -> BoolArray:
    """A mask at the size of the map, by nearest texel.

    Args:
        mask: bool (h, w) of any size.
        height: The map's height.
        width: The map's width.
        name: What to call it in an error.

    Raises:
        InpaintError: `size_mismatch` if the proportions differ by more than 1 %.
    """
    rows, columns = mask.shape
    if (rows, columns) == (height, width):
        return mask
    # One texel of rounding must not make a tiny mask's proportions wrong.
    slack = max(_SAME_ASPECT, 1.0 / max(1, min(rows, columns)))
    if rows < 1 or columns < 1 or abs((columns * height) / (rows * width) - 1) > slack:
        raise InpaintError(
            "size_mismatch",
            f"The {name} is {columns} x {rows} texels, which has other proportions than the normal map's "
            f"{width} x {height}.",
            f"Use a {name} with the same width-to-height ratio as the map; its size may differ.",
        )
    y = np.minimum(((np.arange(height) + 0.5) * rows / height).astype(np.intp), rows - 1)
    x = np.minimum(((np.arange(width) + 0.5) * columns / width).astype(np.intp), columns - 1)
    return np.asarray(mask[y[:, None], x[None, :]])


def dilate(mask: BoolArray, radius: int) -> BoolArray:
    """The mask grown by some texels in all eight directions (a square of side 2 * radius + 1)."""
    grown = mask
    for axis in (0, 1):
        done = 0
        while done < radius:
            # Shifting by up to three times what is done already leaves no gap.
            shift = min(2 * done + 1, radius - done)
            before = grown
            grown = before.copy()
            if axis == 0:
                grown[shift:] |= before[:-shift]
                grown[:-shift] |= before[shift:]
            else:
                grown[:, shift:] |= before[:, :-shift]
                grown[:, :-shift] |= before[:, shift:]
            done += shift
    return grown


def _as_mask(mask: BoolArray, name: str) -> BoolArray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InpaintError(
            "internal", f"The {name} must be a bool array of two axes.", detail=f"{mask.dtype} {mask.shape}"
        )
    return mask


def _empty_texels(pixels: Pixels, encoding: Encoding, known: BoolArray) -> BoolArray:
    """Which known texels of a strip hold no surface: black, without a direction, or fully transparent."""
    colours = pixels[..., : min(3, pixels.shape[2])]
    empty = known.copy()
    for channel in range(colours.shape[2]):
        empty &= colours[..., channel] == 0
    if not encoding.two_channel:
        empty |= _zero_length(pixels, encoding, known)
    if pixels.shape[2] == 4:
        empty |= known & (pixels[..., 3] == 0)
    return empty


def _zero_length(pixels: Pixels, encoding: Encoding, known: BoolArray) -> BoolArray:
    """Which known vectors of a strip have no direction. Full decoding is spent on near-grey texels alone."""
    suspects = known.copy()
    if pixels.dtype.kind == "u":
        top = int(np.iinfo(pixels.dtype).max)
        low, high = int(0.46 * top), int(0.54 * top) + 1
        for channel in range(3):
            suspects &= (pixels[..., channel] >= low) & (pixels[..., channel] <= high)
    else:
        for channel in range(3):
            suspects &= ~(np.abs(pixels[..., channel].astype(np.float32) - 0.5) > 0.04)
    if not suspects.any():
        return suspects
    y, x = np.nonzero(suspects)
    vectors = decode_vectors(pixels[y, x][:, None, :], encoding)[:, 0]
    suspects[y, x] = ~has_direction(vectors)
    return suspects


def _check_finite(pixels: Pixels, known: BoolArray, top: int) -> None:
    """Refuse NaN and infinity at known texels of a strip that begins at row `top`."""
    if pixels.dtype.kind != "f":
        return
    bad: BoolArray = np.zeros(known.shape, np.bool_)
    for channel in range(min(3, pixels.shape[2])):  # `all` over an axis of three takes four times as long
        bad |= ~np.isfinite(pixels[..., channel])
    bad &= known
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise InpaintError("not_finite", detail=f"first at column {x}, row {y + top}")


def _two_channel(pixels: Pixels, encoding: Encoding) -> tuple[Encoding, list[str]]:
    if pixels.shape[2] == 1:
        raise InpaintError(
            "unsupported_format",
            "The normal map has a single channel, which cannot hold a normal.",
            "Use an RGB or RGBA map; a height or bump map has to be converted to a normal map first.",
        )
    if pixels.shape[2] == 2 and not encoding.two_channel:
        changed = Encoding(encoding.space, encoding.y_axis, encoding.up_axis, two_channel=True)
        return changed, ["The map has two channels: z is rebuilt from x and y."]
    return encoding, []


def _any_known(valid: BoolArray, hole: BoolArray) -> bool:
    """Whether a texel is known; told in strips, for the masks can be those of a whole map."""
    return any((valid[rows] & ~hole[rows]).any() for rows in strips(*hole.shape))


def _survey(
    pixels: Pixels,
    mask: BoolArray,
    valid: BoolArray | None,
    islands: BoolArray | None,
    encoding: Encoding,
    notices: list[str],
) -> tuple[BoolArray, BoolArray]:
    """Decide hole and valid, and refuse what cannot be repaired: one pass over the map in strips."""
    height, width = mask.shape
    if not mask.any():
        raise InpaintError("mask_empty")
    if mask.all():
        raise InpaintError("mask_full")
    if valid is not None:
        if not (mask & valid).any():
            raise InpaintError(
                "mask_empty",
                "The mask lies wholly outside the valid area, so there is nothing to repair.",
                "Check that the valid mask is white where there is skin, and that it fits this map.",
            )
        if not _any_known(valid, mask):
            raise InpaintError("mask_full", "The mask covers the whole valid area of the map.")
    surface = (
        valid if valid is not None else islands if islands is not None else np.ones(mask.shape, np.bool_)
    )
    found = np.zeros(mask.shape, np.bool_) if valid is None else None
    for rows in strips(height, width):
        strip = pixels[rows]
        known = surface[rows] & ~mask[rows]
        _check_finite(strip, known, rows.start)
        if found is not None:
            found[rows] = _empty_texels(strip, encoding, known)
        elif not encoding.two_channel:
            lost = _zero_length(strip, encoding, known)
            if lost.any():
                y, x = np.argwhere(lost)[0]
                raise InpaintError("zero_length", detail=f"first at column {x}, row {y + rows.start}")
    if found is not None:
        empty = int(np.count_nonzero(found))
        surface &= ~found
        share = 100.0 * empty / mask.size
        if empty and (islands is None or share > _RIM):
            notices.append(
                f"{empty} texels ({share:.1f} %) are black, grey or transparent and were not taken for "
                "surface; give a valid mask to decide this yourself."
            )
    if not _any_known(surface, mask):
        raise InpaintError("no_context")
    return mask & surface, surface


def _on_mesh(source: Source, meshes: Sequence[BaseMesh], notices: list[str]) -> Source:
    """An object-space map on the mesh that looks most like it; on none, with a notice, if none does."""
    height, width = source.hole.shape
    step = -(-max(height, width) // basemesh.COMPARED)
    normals, hole, valid = source.averaged(Box(0, height, 0, width), step)
    found = basemesh.most_alike(meshes, (height, width), step, normals, hole, valid & ~hole)
    if found is not None and found[1] <= basemesh.ALIKE:
        return replace(source, mesh=found[0])
    if found is None:
        notices.append("The mesh was not used: its UV map lies elsewhere than the normal map's surface.")
    else:
        notices.append(
            f"The mesh was not used: its normals and the map's are {found[1]:.0f} degrees apart. It is not "
            "the one that the map was made for, or not in that pose."
        )
    return source


def _crop(
    job: Target,
    region: Region,
    frames: Frames | None,
    wide: Wide | None,
    twin: FloatArray | None,
    options: Options,
) -> Crop:
    normals, hole, valid = job.source.read(region.crop.slices, frames)
    hole, valid = np.ascontiguousarray(hole), np.ascontiguousarray(valid)
    # A seed for each place, so that two holes do not get the same pores.
    state = np.random.SeedSequence([options.seed & 0xFFFFFFFF, region.tile.top, region.tile.left])
    seed = int(state.generate_state(1)[0]) & 0x7FFFFFFF
    return Crop(
        normals,
        hole,
        valid,
        job.source.space,
        seed,
        detail=options.detail,
        symmetry=options.symmetry,
        wide=wide,
        twin=twin,
        pores=options.seed == 0,
    )


def _check_filled(filled: FloatArray, crop: Crop) -> None:
    """Refuse a filler's answer that is not a field of unit normals in the hole."""
    if not isinstance(filled, np.ndarray) or filled.shape != crop.normals.shape:
        raise InpaintError("bad_result", detail=f"shape {getattr(filled, 'shape', None)}")
    vectors = filled[crop.hole & crop.valid]
    length = np.sqrt(dot(vectors, vectors))
    if not (np.abs(length - 1) <= 1e-3).all():  # false for NaN as well
        raise InpaintError("bad_result", detail="vectors that are not finite or not of unit length")


def _paste(job: Target, region: Region, filled: FloatArray, frames: Frames | None) -> None:
    """Write the tile's hole texels into the result."""
    tile = region.tile
    y, x = np.nonzero(job.source.hole[tile.slices])
    y, x = y + tile.top, x + tile.left
    inside = y - region.crop.top, x - region.crop.left
    vectors = filled[inside]
    if frames is not None:
        vectors = frames.of_local(vectors, inside)
    job.store((y, x), vectors)
    # From now on these texels are known, for the tiles beside this one.
    job.source.hole[tile.slices] = False


def inpaint(
    pixels: Pixels,
    mask: BoolArray,
    filler: Filler,
    *,
    encoding: Encoding | None = None,
    valid: BoolArray | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    overwrite: bool = False,
    meshes: Sequence[BaseMesh] = (),
) -> Result:
    """Repair the masked texels of a normal map.

    Args:
        pixels: (H, W, C) native samples, top row first: uint8, uint16, float16 or float32. Not changed,
            unless `overwrite` says so.
        mask: bool, True where to repair; of another size with the same proportions it is resampled.
        filler: What fills each crop.
        encoding: How the map stores its vectors; tangent space, y up by default.
        valid: bool, True where there is a surface; resampled like the mask. Without it, texels that are
            black, without direction or transparent are taken for empty, with a notice.
        options: Choices about the repair.
        progress: Told how far it is, from 0 to 1.
        cancel: Polled often.
        overwrite: The repair may be written into `pixels`, which then are the result's: a copy less in
            memory. If it fails or is cancelled they are of no use any more.
        meshes: Those that wear the map, in axes of any kind. Without `valid` they tell where it shows skin.
            And what an object-space map hides, the one shows that lies there and looks most like the map;
            none, with a notice, if none does. In camera space they tell nothing.

    Returns:
        The result, as documented there. The same input gives the same result.

    Raises:
        InpaintError: `unsupported_format`, `bad_size`, `size_mismatch`, `mask_empty`, `mask_full`,
            `not_finite`, `zero_length`, `no_context`, `bad_result`, `cancelled`, or what the filler raised.
    """
    started = time.perf_counter()
    progress = progress or no_progress
    cancel = cancel or never_cancel
    options = options or Options()
    check_pixels(pixels)
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST or max(height, width) > LARGEST:
        raise InpaintError(
            "bad_size",
            f"The normal map is {width} x {height} texels, which is too "
            f"{'small' if min(height, width) < SMALLEST else 'large'} to repair.",
            f"Use a map of at least {SMALLEST} and at most {LARGEST} texels a side.",
        )
    encoding, notices = _two_channel(pixels, encoding or Encoding())
    mask = fit_mask(_as_mask(mask, "mask"), height, width)
    if valid is not None:
        valid = fit_mask(_as_mask(valid, "valid mask"), height, width, "valid mask")
    if options.dilate > 0 and mask.any():
        mask = dilate(mask, options.dilate)
    meshes = [mesh for mesh in meshes if mesh.laid_out]
    islands = None
    if valid is None and meshes and encoding.space != "camera":
        islands = basemesh.islands(meshes, mask)
    hole, surface = _survey(pixels, mask, valid, islands, encoding, notices)
    del mask, valid, islands  # a map's worth of memory, if the caller has let go of them as well
    out = pixels if overwrite and pixels.flags.writeable else pixels.copy()
    source = Source(encoding, out, hole, surface)
    if meshes and encoding.space == "object":
        source = _on_mesh(source, meshes, notices)
    job = Target.of(replace(source, hole=hole.copy()))
    steps = planning.plan(hole, surface, source.space)
    contexts = _Contexts(source, meshes, options)
    total = sum(step.crop.height * step.crop.width for step in steps)
    hole_texels = int(np.count_nonzero(hole))
    done = 0
    for region in steps:
        if cancel():
            raise Cancelled()
        texels = region.crop.height * region.crop.width
        report = _part(progress, done / total, texels / total)
        context = contexts.get(region)
        frames = source.frames(region.crop.slices)
        crop = _crop(job, region, frames, *context, options)
        filled = filler.fill(crop, progress=report, cancel=cancel)
        _check_filled(filled, crop)
        _paste(job, region, filled, frames)
        del context, frames, crop, filled
        done += texels
    if cancel():
        raise Cancelled()
    mesh = source.mesh
    if meshes and source.encoding.space == "tangent":
        mesh = basemesh.lying_in(meshes, hole)
    change = meeting(job.source, hole, mesh) if mesh is not None and options.meet else None
    if change is not None:
        job.join(hole, change)
    progress(1.0, "Done")
    return Result(job.source.pixels, hole, hole_texels, len(steps), notices, time.perf_counter() - started)


def meet_tiles(
    meshes: Sequence[Triangles],
    holes: Mapping[int, BoolArray],
    others: Collection[int],
    read: Callable[[int], Pixels],
    encoding: Encoding,
) -> Iterator[tuple[int, Pixels]]:
    """Make both sides of a layout's seams meet in the repaired tiles of a map, and between its tiles.

    Args:
        meshes: that wear the map; the one counts of which most lies in what was repaired.
        holes: what was repaired of each tile that was, by their numbers, as `Result.repaired` tells.
        others: the numbers of the map's other tiles.
        read: gives the pixels of a tile as they are now. It may be asked for some twice, and not for others;
            of the other tiles those that it raises an `InpaintError` for are left out.
        encoding: how the map stores its vectors.

    Returns:
        The tiles that change, one after the other, with their new pixels: those of their holes alone differ.
    """
    mesh = _worn(meshes, holes)
    if mesh is None or not holes or encoding.space == "camera":
        return

    def source(number: int) -> Source | None:
        try:
            pixels = read(number)
            fitting, _ = _two_channel(pixels, encoding)
        except Cancelled:
            raise
        except InpaintError:
            if number in holes:
                raise
            return None
        height, width = pixels.shape[:2]
        valid: BoolArray = np.ones((height, width), np.bool_)
        for rows in strips(height, width):
            valid[rows] = ~_empty_texels(pixels[rows], fitting, valid[rows])
            if pixels.dtype.kind == "f":
                valid[rows] &= np.isfinite(pixels[rows][..., :3]).all(axis=-1)
        found = Source(fitting, pixels, np.zeros_like(valid), valid)
        if encoding.space != "object":
            return found
        base = mesh.base(number)
        if base is None:
            return None
        known = replace(found, hole=holes[number] & valid) if number in holes else found
        base = _on_mesh(known, [base], []).mesh
        return replace(found, mesh=base) if base is not None else None

    for number, change in meeting_of_tiles(mesh, holes, others, source).items():
        repaired = source(number)
        if repaired is None:
            continue
        if not repaired.pixels.flags.writeable:
            repaired = replace(repaired, pixels=repaired.pixels.copy())
        hole = holes[number] & repaired.valid
        before = Target.of(replace(repaired, hole=hole))
        Target(repaired, before.constant_z).join(hole, change)
        yield number, repaired.pixels


def _worn(meshes: Sequence[Triangles], holes: Mapping[int, BoolArray]) -> Triangles | None:
    """Of meshes the one of which most lies in the holes of tiles, by their numbers."""
    if len(meshes) < 2:
        return meshes[0] if meshes else None
    counts = []
    for mesh in meshes:
        parts = ((mesh.base(number), hole) for number, hole in holes.items())
        counts.append(sum(basemesh.covered(base, hole) for base, hole in parts if base is not None))
    return meshes[int(np.argmax(counts))]


def _part(progress: Progress, start: float, share: float) -> Callable[[float, str], None]:
    """A `Progress` for one part of the job."""

    def report(fraction: float, text: str) -> None:
        progress(start + share * min(max(fraction, 0.0), 1.0), text)

    return report


@dataclass(frozen=True)
class _Seen:
    """What a context shows: see `Wide`, and a head that fits it."""

    normals: FloatArray
    hole: BoolArray
    valid: BoolArray
    twin: FloatArray | None
    head: Head | None


class _Contexts:
    """The coarse context of each region, and what the other half shows; regions of one hole share theirs.

    All are taken with the whole hole still open, so that the network tells all tiles of one hole the same
    story.
    """

    def __init__(self, source: Source, meshes: Sequence[BaseMesh], options: Options) -> None:
        self._source = source
        self._seed = options.seed & 0x7FFFFFFF
        wanted = options.symmetry and options.detail
        self._by_head = wanted and source.space == "camera"
        by_layout = wanted and not self._by_head
        self._half: OtherHalf | None = of_layout(source, meshes) if by_layout else None
        self._box: tuple[Box, int] | None = None
        self._last: _Seen | None = None

    def get(self, region: Region) -> tuple[Wide | None, FloatArray | None]:
        """The context to send along, None if the crop itself says it all; and the crop's twin, see `Crop`."""
        source = self._source
        context, step = region.context, region.step
        inside = context.slices
        while not _any_known(source.valid[inside], source.hole[inside]):
            wider = planning.widen(context, *source.hole.shape)
            if wider is None:
                raise InpaintError("no_context")
            context, step = wider
            inside = context.slices
        if step == 1 and context == region.crop:
            return None, None if self._by_head else self._twin(region)
        if self._last is None or self._box != (context, step):
            self._last = self._seen(context, step)
            self._box = context, step
        seen = self._last
        place = context.top - region.crop.top, context.left - region.crop.left
        head = packed(seen.head) if seen.head is not None else None
        wide = Wide(seen.normals, seen.hole, seen.valid, step, *place, self._seed, seen.twin, head)
        return wide, self._twin(region)

    def _seen(self, context: Box, step: int) -> _Seen:
        """See there."""
        self._last = None  # its memory is needed
        normals, hole, valid = self._source.averaged(context, step)
        head = None
        if self._by_head:
            self._half = half = HeadHalf(self._source, context, step, normals, hole, valid)
            head = half.head
        twin = self._half.coarse(context, step) if self._half is not None and step > 1 else None
        return _Seen(normals, hole, valid, twin, head)

    def _twin(self, region: Region) -> FloatArray | None:
        return around(self._half, self._source, region) if self._half is not None else None
