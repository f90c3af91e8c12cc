"""Seams between the tiles of a map, and that both sides meet in what was repaired."""

from __future__ import annotations

import numpy as np
import pytest
from test_core_basemesh import frames_of, grid, surface
from test_core_opposites import turned
from test_core_seams import RADIUS, worn

from blender_normal_inpaint.core import normals as coding
from blender_normal_inpaint.core import pipeline, seams
from blender_normal_inpaint.core.basemesh import Grid, Triangles
from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.normals import Encoding, angular_error, unit

SIZE = 256
LEFT, RIGHT = 1001, 1012


def halves(cells=48):
    """A dome whose halves lie in two tiles, one of them turned by a quarter and mirrored."""
    u, v, corners = grid(cells)
    vertices = (7 * (surface(u, v) @ turned())).astype(np.float32)
    across, up = u[corners], v[corners]
    left = np.stack([0.05 + 1.8 * across, 0.05 + 0.9 * up], -1)
    right = np.stack([1.05 + 0.9 * up, 1.05 + 1.8 * (across - 0.5)], -1)
    mine = across.mean(axis=1) < 0.5
    return Triangles(vertices, corners, np.where(mine[:, None, None], left, right).astype(np.float32))


@pytest.fixture(scope="module")
def mesh():
    result = halves()
    assert result.tiles() == [LEFT, RIGHT]
    return result


def tile_of(mesh, number, off=0.0, size=SIZE, dtype=np.float32, space="tangent"):
    """A tile's pixels, off by so much in a hole at the border between both, and that hole."""
    base = mesh.base(number)
    local, lies, _ = worn(base, 0.1 if space == "object" else 0.25, size)
    points, _ = base.interpolated(base.points, Grid.blocks((size, size)))
    far = np.linalg.norm(points - middle(mesh), axis=-1)
    hole = lies & (far < RADIUS)
    assert hole.any()
    deep = off * np.clip(1 - far / RADIUS, 0, 1) * hole
    local = unit(local + deep[..., None] * np.array([1, 1, 0], np.float32))
    if space == "object":
        every = tuple(axis.ravel() for axis in np.indices((size, size)))
        local = frames_of(base, size).of_local(local.reshape(-1, 3), every).reshape(local.shape)
    encoding = Encoding(space=space)
    return coding.encode(local.reshape(-1, 3), encoding, dtype).reshape(local.shape), hole


def middle(mesh):
    """Where the border between both tiles is in the middle of the dome."""
    left, right = (set(map(tuple, mesh.base(number).points.tolist())) for number in (LEFT, RIGHT))
    border = np.array(sorted(left & right))
    return border[np.argmin(np.linalg.norm(border - border.mean(axis=0), axis=1))]


def apart(mesh, pixels, holes, encoding):
    """Degrees between both sides along the border, where it lies in what was repaired."""
    strip = seams._Strip.of(mesh, [LEFT, RIGHT], SIZE)
    assert strip is not None
    found = strip.seams()
    assert found is not None
    normals, shown = {}, {}
    for number, tile in pixels.items():
        base = mesh.base(number)
        decoded = coding.decode(tile, encoding)
        normals[number] = frames_of(base, len(tile)).local(decoded) if encoding.space == "object" else decoded
        shown[number] = base.covers(Grid.blocks(tile.shape[:2]))
    laid = [
        strip.laid({n: seams._squared(part, SIZE) for n, part in parts.items()}) for parts in (normals, shown)
    ]
    one, two, good = found.seen(*laid)
    covered = strip.laid({n: seams._squared(hole, SIZE) for n, hole in holes.items()})
    first, second = (covered[side.blocks(covered.shape)] for side in found.sides)
    hidden = first | second
    return angular_error(unit(one), unit(two))[good & hidden].mean()


def met(mesh, pixels, holes, encoding=None, others=()):
    """The tiles afterwards; all but what was repaired has its old bits."""
    after = dict(pixels)
    reads = []

    def read(number):
        reads.append(number)
        tile = after[number].copy()
        tile.flags.writeable = False  # as files that are read may be
        return tile

    for number, tile in pipeline.meet_tiles([mesh], holes, others, read, encoding or Encoding()):
        assert tile[~holes[number]].tobytes() == pixels[number][~holes[number]].tobytes()
        assert tile.dtype == pixels[number].dtype
        after[number] = tile
    return after, reads


@pytest.mark.parametrize("space", ["tangent", "object"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_both_tiles_meet_and_share_what_was_off(mesh, dtype, space):
    encoding = Encoding(space=space)
    made = {
        number: tile_of(mesh, number, off, dtype=dtype, space=space)
        for number, off in ((LEFT, 0.4), (RIGHT, 0))
    }
    pixels, holes = ({number: part[i] for number, part in made.items()} for i in (0, 1))
    after, _ = met(mesh, pixels, holes, encoding)
    before, now = (apart(mesh, tiles, holes, encoding) for tiles in (pixels, after))
    assert before > 4 and now < 0.4 * before
    moved = [
        angular_error(coding.decode(after[n], encoding), coding.decode(pixels[n], encoding))[holes[n]].mean()
        for n in (LEFT, RIGHT)
    ]
    assert moved[0] / moved[1] == pytest.approx(1, abs=0.3)


def test_a_tile_that_is_known_holds_still_and_the_other_meets_it(mesh):
    pixels, holes = {}, {}
    pixels[LEFT], holes[LEFT] = tile_of(mesh, LEFT, 0.4)
    pixels[RIGHT], whole = tile_of(mesh, RIGHT)
    after, reads = met(mesh, pixels, holes, others=[RIGHT, 1002])
    assert set(reads) == {LEFT, RIGHT} and after[RIGHT] is pixels[RIGHT]
    everywhere = {LEFT: holes[LEFT], RIGHT: whole}
    before, now = (apart(mesh, tiles, everywhere, Encoding()) for tiles in (pixels, after))
    assert now < 0.5 * before


def test_tiles_of_several_sizes_meet(mesh):
    made = {LEFT: tile_of(mesh, LEFT, 0.4), RIGHT: tile_of(mesh, RIGHT, size=SIZE // 2)}
    pixels, holes = ({number: part[i] for number, part in made.items()} for i in (0, 1))
    after, _ = met(mesh, pixels, holes)
    assert apart(mesh, after, holes, Encoding()) < 0.5 * apart(mesh, pixels, holes, Encoding())
    assert (after[RIGHT] != pixels[RIGHT]).any()


def test_no_tile_is_read_without_a_seam_in_what_was_repaired(mesh):
    tile, hole = tile_of(mesh, LEFT)
    hole = np.zeros_like(hole)
    hole[100:140, 40:70] = True
    after, reads = met(mesh, {LEFT: tile}, {LEFT: hole}, others=[RIGHT])
    assert not reads and after[LEFT] is tile


def test_a_tile_that_the_map_lacks_is_not_asked_for(mesh):
    tile, hole = tile_of(mesh, LEFT, 0.4)
    after, reads = met(mesh, {LEFT: tile}, {LEFT: hole})
    assert not reads and after[LEFT] is tile


def test_a_tile_that_cannot_be_read_is_left_out_unless_it_was_repaired(mesh):
    made = {number: tile_of(mesh, number, off) for number, off in ((LEFT, 0.4), (RIGHT, 0))}
    holes = {number: hole for number, (_, hole) in made.items()}

    def read(number):
        if number == RIGHT:
            raise InpaintError("unreadable")
        return made[number][0].copy()

    assert not list(pipeline.meet_tiles([mesh], {LEFT: holes[LEFT]}, [RIGHT], read, Encoding()))
    with pytest.raises(InpaintError):
        list(pipeline.meet_tiles([mesh], holes, [], read, Encoding()))


@pytest.mark.parametrize("two_channel", [False, True])
def test_what_is_no_number_in_another_tile_does_not_come_over(mesh, two_channel):
    pixels, holes = {}, {}
    pixels[LEFT], holes[LEFT] = tile_of(mesh, LEFT, 0.4)
    pixels[RIGHT], near = tile_of(mesh, RIGHT)
    rows, columns = np.nonzero(near)
    pixels[RIGHT][rows[::3], columns[::3]] = np.nan
    if not two_channel:
        pixels[RIGHT][rows[1::7], columns[1::7]] = np.inf
    after, _ = met(mesh, pixels, holes, Encoding(two_channel=two_channel), others=[RIGHT])
    assert np.isfinite(after[LEFT]).all() and not np.array_equal(after[LEFT], pixels[LEFT])


def test_camera_space_and_maps_without_a_mesh_stay(mesh):
    _, hole = tile_of(mesh, LEFT, 0.4)

    def read(number):
        pytest.fail("a tile was read")

    assert not list(pipeline.meet_tiles([], {LEFT: hole}, [], read, Encoding()))
    assert not list(pipeline.meet_tiles([mesh], {LEFT: hole}, [], read, Encoding(space="camera")))


def test_the_mesh_counts_that_lies_in_the_holes(mesh):
    made = {LEFT: tile_of(mesh, LEFT, 0.4), RIGHT: tile_of(mesh, RIGHT)}
    holes = {number: hole for number, (_, hole) in made.items()}
    elsewhere = Triangles(mesh.vertices, mesh.corners, mesh.uv + np.array([3, 0], np.float32))
    corner = Triangles(mesh.vertices, mesh.corners, np.floor(mesh.uv) + np.float32(0.02) * (mesh.uv % 1))
    assert pipeline._worn([elsewhere, mesh, corner], holes) is mesh
