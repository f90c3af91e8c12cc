"""The mesh that an object-space map lies on: its frames, how it is turned, and what it shows."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import FakeEngine, disc

from blender_normal_inpaint.core import normals as coding
from blender_normal_inpaint.core import pipeline
from blender_normal_inpaint.core.basemesh import BaseMesh, Grid, islands
from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.fill import LocalFiller
from blender_normal_inpaint.core.meshfile import read_mesh
from blender_normal_inpaint.core.normals import Encoding, angular_error, unit
from blender_normal_inpaint.core.pipeline import Options
from blender_normal_inpaint.core.regions import Box

#: Share of the side that the layout leaves free all around.
MARGIN = 0.06


def surface(u, v):
    """Points (..., 3) of a dome with a nose and two sockets on it; u and v from 0 to 1."""
    turn, lift = 2.6 * (u - 0.5), 1.8 * (v - 0.5)
    radius = 1 + 0.35 * np.exp(-((u - 0.5) ** 2 + (v - 0.45) ** 2) / 0.008)
    for at in (0.32, 0.68):
        radius = radius - 0.1 * np.exp(-((u - at) ** 2 + (v - 0.62) ** 2) / 0.004)
    return np.stack(
        [radius * np.sin(turn) * np.cos(lift), radius * np.sin(lift), radius * np.cos(turn) * np.cos(lift)],
        -1,
    )


def true_normals(size):
    """The dome's own map (size, size, 3) and where it lies in the layout."""
    middle = (np.arange(size) + 0.5) / size
    u, v = np.meshgrid((middle - MARGIN) / (1 - 2 * MARGIN), (1 - middle - MARGIN) / (1 - 2 * MARGIN))
    e = 1e-4
    along = (surface(u + e, v) - surface(u - e, v)) / e
    across = (surface(u, v + e) - surface(u, v - e)) / e
    lies = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    result = unit(np.cross(along, across).astype(np.float32))
    result[~lies] = (0, 0, 1)
    return result, lies


def grid(cells):
    """A grid's corners u and v (n,), and its triangles (m, 3)."""
    at = np.linspace(0, 1, cells + 1)
    v, u = (axis.ravel() for axis in np.meshgrid(at, at, indexing="ij"))
    first = (np.arange(cells)[:, None] * (cells + 1) + np.arange(cells)).ravel()
    a, b, c, d = first, first + 1, first + cells + 2, first + cells + 1
    return u, v, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)


def mesh(cells=40, shift=0.0):
    """The dome as a mesh: vertices, corners and texture coordinates, as `BaseMesh.of` takes them."""
    u, v, corners = grid(cells)
    uv = np.stack([u, v], 1) * (1 - 2 * MARGIN) + MARGIN + shift
    return surface(u, v).astype(np.float32), corners, uv[corners].astype(np.float32)


def frames_of(base, size):
    return base.frames(Grid.blocks((size, size)))


def texture(size, seed=1, strength=0.08):
    """Skin of a kind, as tangent-space slopes (size, size, 2)."""
    rng = np.random.default_rng(seed)
    field = rng.normal(size=(size, size, 2))
    for axis in (0, 1):
        field = field + np.roll(field, 1, axis) + np.roll(field, -1, axis)
    return strength * field / field.std()


def skinned(truth, base, size):
    """The dome's map with skin on it."""
    frames = frames_of(base, size)
    slopes = texture(size)
    local = unit(np.concatenate([-slopes, np.ones((size, size, 1))], -1).astype(np.float32))
    flat = tuple(axis.ravel() for axis in np.indices((size, size)))
    own = frames.of_local(local.reshape(-1, 3), flat).reshape(size, size, 3)
    # The frames' normals are the mesh's: what they lack of the dome's own is added.
    return unit(own + truth - frames.normals)


def repaired(pixels, hole, valid, encoding, base=None, **options):
    how = Options(**({"detail": False} | options))
    meshes = () if base is None else (base,)
    filler = LocalFiller(FakeEngine())
    return pipeline.inpaint(pixels, hole, filler, encoding=encoding, valid=valid, options=how, meshes=meshes)


def error_of(result, encoding, truth, hole):
    return float(angular_error(coding.decode(result.pixels, encoding), truth)[hole].mean())


def test_frames_are_square_and_their_normals_the_surfaces() -> None:
    base = BaseMesh.of(*mesh())
    frames = frames_of(base, 96)
    truth, lies = true_normals(96)
    axes = np.stack([frames.tangents, frames.bitangents, frames.normals], -2)
    assert np.abs(axes @ np.swapaxes(axes, -1, -2) - np.eye(3)).max() < 1e-5
    assert np.allclose(np.linalg.det(axes), 1, atol=1e-5)
    assert (frames.there == lies).mean() > 0.98
    inner = frames.there & lies
    assert angular_error(frames.normals[inner], truth[inner]).mean() < 1
    # Tangents go the way of u.
    size = 96
    right = (surface(np.array(0.7), np.array(0.3)) - surface(np.array(0.69), np.array(0.3))).astype(
        np.float32
    )
    row, column = (round(size * (MARGIN + at * (1 - 2 * MARGIN)) - 0.5) for at in (1 - 0.3, 0.695))
    assert angular_error(frames.tangents[row, column], right) < 6


def test_local_and_back_is_the_same() -> None:
    rng = np.random.default_rng(0)
    frames = frames_of(BaseMesh.of(*mesh()), 64)
    vectors = unit(rng.normal(size=(64, 64, 3)).astype(np.float32))
    flat = tuple(axis.ravel() for axis in np.indices((64, 64)))
    back = frames.of_local(frames.local(vectors).reshape(-1, 3), flat)
    assert np.abs(back - vectors.reshape(-1, 3)).max() < 1e-5


def test_a_part_of_the_map_and_a_coarser_one_have_the_same_frames() -> None:
    base = BaseMesh.of(*mesh())
    whole = frames_of(base, 128)
    part = base.frames(Grid.blocks((128, 128), 1, Box(40, 90, 30, 90)))
    assert np.abs(part.normals - whole.normals[40:90, 30:90]).max() < 1e-4
    coarse = base.frames(Grid.blocks((128, 128), 4))
    inner = coarse.there & whole.there[1::4, 1::4] & whole.there[2::4, 2::4]
    between = unit(whole.normals[1::4, 1::4] + whole.normals[2::4, 2::4])
    assert angular_error(coarse.normals, between)[inner].max() < 3


def test_mirrored_islands_seams_and_other_tiles() -> None:
    vertices, corners, uv = mesh(24)
    # The right half of the layout lies over its left one's mirror image, moved up by two tiles.
    right = uv[:, :, 0].mean(axis=1) > 0.5
    mirrored = uv.copy()
    mirrored[right, :, 0] = 1 - uv[right, :, 0] + 0.5
    mirrored[right, :, 1] += 2
    base = BaseMesh.of(vertices, corners, mirrored)
    assert set(np.unique(base.hands)) == {-1, 1}
    assert len(base.places) == len(vertices) + 25  # one row of vertices on the seam
    frames = frames_of(base, 96)
    axes = np.stack([frames.tangents, frames.bitangents, frames.normals], -2)
    determinant = np.linalg.det(axes)
    left = np.s_[10:86, 10:44]
    assert np.allclose(determinant[left], 1, atol=1e-4)
    other = np.s_[10:86, 56:87]
    assert np.allclose(determinant[other], -1, atol=1e-4)
    # The mirrored half shows what the truth has in its mirror image.
    truth, _ = true_normals(96)
    assert angular_error(frames.normals[other], truth[10:86, 57:88][:, ::-1]).mean() < 2


@pytest.mark.parametrize("flip", [1, -1])
def test_a_mesh_is_turned_into_the_maps_axes(flip: int) -> None:
    rng = np.random.default_rng(4)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn[0] *= flip * np.sign(np.linalg.det(turn))
    turn = turn.astype(np.float32)
    base = BaseMesh.of(*mesh())
    truth, lies = true_normals(64)
    outliers = disc(64, 64, 20, 20, 8)
    damaged = truth.copy()
    damaged[outliers] = (0, 0, -1)
    found = base.turned_to(damaged @ turn.T, lies, frames_of(base, 64))
    assert found is not None
    turned, off = found
    assert off < 1
    frames = frames_of(turned, 64)
    inner = frames.there & lies
    assert angular_error(frames.normals[inner], (truth @ turn.T)[inner]).mean() < 2
    axes = np.stack([frames.tangents, frames.bitangents, frames.normals], -2)
    assert np.allclose(np.linalg.det(axes), flip, atol=1e-4)


def test_what_has_too_little_in_common_is_not_turned() -> None:
    base = BaseMesh.of(*mesh())
    truth, lies = true_normals(64)
    assert base.turned_to(truth, lies & disc(64, 64, 30, 30, 3), frames_of(base, 64)) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("encoding", [Encoding("object", up_axis="z"), Encoding("object", "down")])
def test_a_mesh_shows_what_is_hidden(dtype, encoding) -> None:
    size = 192
    truth, lies = true_normals(size)
    base = BaseMesh.of(*mesh())
    hole = disc(size, size, 104, 96, 30)  # the nose
    pixels = coding.encode(truth, encoding, dtype)
    pixels[hole] = 0
    before = pixels.copy()
    plain = repaired(pixels, hole, lies, encoding)
    result = repaired(pixels, hole, lies, encoding, base)
    assert np.array_equal(pixels, before)
    assert result.pixels[~hole].tobytes() == pixels[~hole].tobytes()
    assert result.notices == []
    vectors = coding.decode_vectors(result.pixels, encoding)[hole]
    assert np.abs(np.linalg.norm(vectors, axis=-1) - 1).max() < (0.02 if dtype == np.uint8 else 1e-3)
    assert error_of(result, encoding, truth, hole) < 2.5
    assert error_of(plain, encoding, truth, hole) > 15


def test_skin_on_a_mesh_is_continued_as_it_lies_on_it() -> None:
    size = 256
    truth, lies = true_normals(size)
    base = BaseMesh.of(*mesh())
    truth = skinned(truth, base, size)
    encoding = Encoding("object")
    hole = disc(size, size, 139, 128, 40)
    pixels = coding.encode(truth, encoding, np.uint16)
    result = repaired(pixels, hole, lies, encoding, base, detail=True)
    local = frames_of(base, size).local(coding.decode(result.pixels, encoding))
    own = frames_of(base, size).local(truth)
    inner = disc(size, size, 139, 128, 34)
    for axis in (0, 1):
        assert 0.7 < local[..., axis][inner].std() / own[..., axis][inner].std() < 1.3
    # Another seed, other pores, and the same forms.
    other = repaired(pixels, hole, lies, encoding, base, detail=True, seed=3)
    assert (other.pixels != result.pixels).any(axis=-1)[inner].mean() > 0.9
    assert error_of(other, encoding, truth, hole) < 15


def test_a_mesh_that_looks_unlike_the_map_changes_nothing_but_the_notice() -> None:
    size = 128
    truth, lies = true_normals(size)
    vertices, corners, uv = mesh()
    rng = np.random.default_rng(2)
    bumpy = (vertices + 0.03 * rng.normal(size=vertices.shape)).astype(np.float32)
    encoding = Encoding("object")
    hole = disc(size, size, 64, 64, 16)
    pixels = coding.encode(truth, encoding, np.uint16)
    plain = repaired(pixels, hole, lies, encoding)
    result = repaired(pixels, hole, lies, encoding, BaseMesh.of(bumpy, corners, uv))
    assert result.pixels.tobytes() == plain.pixels.tobytes()
    assert len(result.notices) == 1 and "degrees apart" in result.notices[0]
    elsewhere = BaseMesh.of(vertices, corners, 0.01 * uv)
    result = repaired(pixels, hole, lies, encoding, elsewhere)
    assert result.pixels.tobytes() == plain.pixels.tobytes()
    assert len(result.notices) == 1 and "UV map" in result.notices[0]


def test_of_several_meshes_the_most_alike_is_taken() -> None:
    size = 128
    truth, lies = true_normals(size)
    vertices, corners, uv = mesh()
    rng = np.random.default_rng(2)
    near = BaseMesh.of((vertices + 0.002 * rng.normal(size=vertices.shape)).astype(np.float32), corners, uv)
    best = BaseMesh.of(vertices, corners, uv)
    encoding = Encoding("object")
    hole = disc(size, size, 70, 64, 16)
    pixels = coding.encode(truth, encoding, np.float32)
    alone = repaired(pixels, hole, lies, encoding, best)
    filler = LocalFiller(FakeEngine())
    for meshes in ((near, best), (best, near)):
        both = pipeline.inpaint(
            pixels, hole, filler, encoding=encoding, valid=lies, options=Options(detail=False), meshes=meshes
        )
        assert both.pixels.tobytes() == alone.pixels.tobytes()


def test_camera_space_needs_no_mesh_and_tangent_space_none_with_a_valid_area() -> None:
    size = 128
    truth, lies = true_normals(size)
    hole = disc(size, size, 70, 64, 16)
    for space, valid in (("camera", None), ("camera", lies), ("tangent", lies)):
        encoding = Encoding(space)
        pixels = coding.encode(truth, encoding, np.uint8)
        plain = repaired(pixels, hole, valid, encoding)
        result = repaired(pixels, hole, valid, encoding, BaseMesh.of(*mesh()))
        assert result.pixels.tobytes() == plain.pixels.tobytes() and result.notices == plain.notices


@pytest.mark.parametrize("size", [96, 1500])
def test_a_mesh_tells_where_skin_is(size: int) -> None:
    base = BaseMesh.of(*mesh())
    _, lies = true_normals(size)
    mask = disc(size, size, 0.1 * size, 0.5 * size, 0.08 * size)
    found = islands([base], mask)
    assert found is not None and found[mask].all()
    # Near the mask to the texel, and elsewhere to a block of two.
    near = disc(size, size, 0.1 * size, 0.5 * size, 0.3 * size)
    assert np.array_equal((found | mask)[near], (lies | mask)[near])
    assert np.count_nonzero(found != (lies | mask)) <= 8 * size
    # Two meshes, each a half of the layout.
    vertices, corners, uv = mesh()
    right = uv[:, :, 0].mean(axis=1) > 0.5
    halves = [BaseMesh.of(vertices, corners[part], uv[part]) for part in (right, ~right)]
    both = islands(halves, mask)
    assert both is not None and np.array_equal(both, found)
    half = islands(halves[:1], disc(size, size, 0.4 * size, 0.8 * size, 0.08 * size))
    assert half is not None and not half[:, : size // 2 - 2].any()


def test_a_mesh_that_lies_elsewhere_tells_nothing() -> None:
    vertices, corners, uv = mesh()
    base = BaseMesh.of(vertices, corners, 0.2 * uv)
    _, lies = true_normals(96)
    assert islands([base], disc(96, 96, 30, 60, 9)) is None  # the mesh is in the lower left corner
    assert islands([base], lies) is None
    assert islands([base], np.ones((96, 96), bool)) is None
    assert islands([base], disc(96, 96, 86, 10, 3)) is not None


def test_a_mesh_whose_faces_have_the_whole_map_each_has_no_layout() -> None:
    size = 64
    truth, _ = true_normals(size)
    vertices, corners, uv = mesh()
    every = np.broadcast_to(np.array([[0, 0], [1, 0], [1, 1]], np.float32), uv.shape)
    base = BaseMesh.of(vertices, corners, every.copy())
    assert not base.laid_out and BaseMesh.of(vertices, corners, uv).laid_out
    hole = disc(size, size, 30, 30, 6)
    for encoding in (Encoding(), Encoding("object")):
        pixels = coding.encode(truth, encoding, np.uint8)
        plain = repaired(pixels, hole, None, encoding)
        assert repaired(pixels, hole, None, encoding, base).pixels.tobytes() == plain.pixels.tobytes()


def test_flat_gaps_between_islands_are_no_skin() -> None:
    size = 128
    rows = np.mgrid[:size, :size][0]
    truth = unit(np.stack([np.full((size, size), 0.5), 0.3 * np.sin(rows / 20), np.ones((size, size))], -1))
    truth = truth.astype(np.float32)
    _, lies = true_normals(size)
    flat = np.where(lies[..., None], truth, np.array([0, 0, 1], np.float32))
    encoding = Encoding()
    pixels = coding.encode(flat, encoding, np.uint8)
    hole = disc(size, size, 14, 64, 16)  # over the island's edge
    asked = hole & lies
    base = BaseMesh.of(*mesh())
    told = repaired(pixels, hole, lies, encoding)
    found = repaired(pixels, hole, None, encoding, base)
    assert found.notices == [] and found.pixels[~hole].tobytes() == pixels[~hole].tobytes()
    # What the mask has of the gap is filled, and what lies there is not gone on with.
    assert abs(error_of(found, encoding, truth, asked) - error_of(told, encoding, truth, asked)) < 1
    assert error_of(found, encoding, truth, asked) < 2
    assert error_of(repaired(pixels, hole, None, encoding), encoding, truth, asked) > 4
    black = pixels.copy()
    black[~lies] = 0
    found = repaired(black, hole, None, encoding, base)
    assert found.notices == [] and error_of(found, encoding, truth, asked) < 2
    # Much of an island without normals is worth a word.
    black[60:90] = 0
    assert "black" in repaired(black, hole, None, encoding, base).notices[0]


def write_obj(path, vertices, corners, uv):
    """An OBJ file with a vertex for each of a mesh's and texture coordinates for each corner."""
    lines = [f"v {x} {y} {z}" for x, y, z in vertices]
    lines += [f"vt {u} {v}" for u, v in uv.reshape(-1, 2)]
    lines += [
        "f " + " ".join(f"{vertex + 1}/{3 * number + i + 1}" for i, vertex in enumerate(triangle))
        for number, triangle in enumerate(corners)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_meshes_are_read_from_files(tmp_path) -> None:
    vertices, corners, uv = mesh(20)
    uv[corners[:, 0] > 200, :, 0] *= 0.5  # a seam
    base = BaseMesh.of(vertices, corners, uv)
    found = read_mesh(write_obj(tmp_path / "head.obj", vertices, corners, uv)).base(None)
    assert found is not None
    for shape in (64, 96):
        mine, theirs = frames_of(base, shape), frames_of(found, shape)
        assert (mine.there == theirs.there).mean() > 0.999
        assert np.abs(mine.normals - theirs.normals)[mine.there & theirs.there].max() < 1e-3


def test_files_that_hold_no_mesh_say_so(tmp_path) -> None:
    damaged = tmp_path / "damaged.obj"
    damaged.write_text("v 0 0 nothing\nf 1 2 3\n")
    bare = tmp_path / "bare.obj"
    bare.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    for path in (damaged, bare, tmp_path / "missing.obj", tmp_path / "head.doc"):
        with pytest.raises(InpaintError) as caught:
            read_mesh(path)
        assert caught.value.code == "bad_mesh" and path.name in caught.value.message
