"""Numbers of tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blender_normal_inpaint.core import udim
from blender_normal_inpaint.core.basemesh import BaseMesh, Triangles


@pytest.mark.parametrize(
    ("number", "corner"), [(1001, (0, 0)), (1010, (9, 0)), (1011, (0, 1)), (1999, (8, 99))]
)
def test_ten_tiles_lie_in_a_row(number, corner):
    assert udim.corner(number) == corner


def test_names_of_tiles():
    both = [
        ("head.1012.png", "head.png", 1012),
        ("head_1001.exr", "head.png", 1001),
        ("head_u2_v3.tif", "head.png", 1022),
        ("head.1012", "head", 1012),
        ("größe.v2.1001.png", "größe.v2.png", 1001),
        ("head.<UDIM>.png", "head.png", None),
        ("head.2012.png", "head.2012.png", None),
        ("head.10012.png", "head.10012.png", None),
        ("head.png", "head.png", None),
        ("1001.png", "1001.png", 1001),
        ("head_u11_v1.png", "head.png", None),
    ]
    for name, plain, number in both:
        assert udim.number_of(name) == number, name
        if name.endswith(".png") and name != "1001.png":
            assert udim.plain(name) == plain, name
    assert udim.plain("1001") == "1001"
    assert udim.pattern(Path("a/head.1003.png")) == Path("a/head.<UDIM>.png")
    assert udim.pattern(Path("a/head.png")) == Path("a/head.<UDIM>.png")
    for name in ("head.<UDIM>.png", "head_<UVTILE>.png"):
        assert udim.is_pattern(Path(name)) and udim.pattern(Path(name)) == Path(name)
    assert not udim.is_pattern(Path("<UDIM>/head.png"))
    assert udim.in_path(Path("a/b.<UDIM>.png"), 1012) == Path("a/b.1012.png")
    assert udim.in_path(Path("a/b_<UVTILE>.png"), 1012) == Path("a/b_u2_v2.png")


def test_tiles_of_a_path_are_found(tmp_path):
    for name in (
        "a.1002.png",
        "a.1001.png",
        "a.1001.tif",
        "aa.1003.png",
        "a.0999.png",
        "a.1004.png.bak",
        "a_u3_v1.png",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.1005.png").mkdir()
    found = udim.tiles(tmp_path / "a.<UDIM>.png")
    assert list(found.items()) == [(1001, tmp_path / "a.1001.png"), (1002, tmp_path / "a.1002.png")]
    assert udim.tiles(tmp_path / "a_<UVTILE>.png") == {1003: tmp_path / "a_u3_v1.png"}
    assert udim.tiles(tmp_path / "b.<UDIM>.png") == {} == udim.tiles(tmp_path / "none" / "a.<UDIM>.png")


def test_a_tile_has_its_triangles_and_the_normals_of_all():
    # A roof: one slope in each of two tiles, the ridge on their border.
    vertices = np.array([[0, 0, 0], [1, 0, 1], [2, 0, 0], [0, 1, 0], [1, 1, 1], [2, 1, 0]], np.float32)
    corners = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]], np.int32)
    uv = vertices[corners][..., :2].astype(np.float32)
    roof = Triangles(vertices, corners, uv)
    assert roof.tiles() == [1001, 1002] and Triangles(vertices, corners[:2], uv[:2]).tiles() == [1001]
    both = roof.base(None)
    left, right = roof.base(1001), roof.base(1002)
    assert both is not None and left is not None and right is not None and roof.base(1003) is None
    assert [len(base.triangles) for base in (both, left, right)] == [4, 2, 2]
    for base in (left, right):
        assert base.places.min() == 0 and base.places.max() == 1
        for point, normal in zip(base.points, base.normals, strict=True):
            same = (both.points == point).all(axis=-1)
            assert same.any()
            np.testing.assert_allclose(
                both.normals[same], np.broadcast_to(normal, (same.sum(), 3)), atol=1e-6
            )
    alone = BaseMesh.of(vertices, corners[:2], uv[:2])
    assert np.abs(alone.normals[alone.points[:, 0] == 1][:, 0]).min() > 0.7
