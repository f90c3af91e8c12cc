"""Which way a head looks: what the small network sees, and how it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import head

from blender_normal_inpaint.core import pose as module
from blender_normal_inpaint.core.errors import InpaintError
from blender_normal_inpaint.core.pose import SIZE, pose


def degrees(value):
    return float(np.degrees(value))


@pytest.mark.parametrize("size", [(160, 100), (64, 64), (33, 200)])
def test_the_network_sees_the_whole_map_in_the_middle(size):
    rng = np.random.default_rng(0)
    valid = np.ones(size, np.bool_)
    known = valid.copy()
    known[:, : size[1] // 2] = False
    normals = np.zeros((*size, 3), np.float32)
    normals[..., 2] = 1
    normals[~known] = rng.normal(size=(np.count_nonzero(~known), 3))  # not to be seen
    seen = module.picture(normals, known, valid)
    assert seen.shape == (5, SIZE, SIZE) and seen.dtype == np.float32
    assert np.array_equal(np.unique(seen[:3].sum(axis=0)), [0, 1])
    assert np.array_equal(seen[2], seen[3]) and not (seen[3] * seen[4]).any()
    rows, columns = np.nonzero(seen[3] + seen[4])
    block = -(-max(size) // SIZE)
    # A block that juts out by more than half is left out.
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (round(size[0] / block), round(size[1] / block))
    assert abs(rows.min() - (SIZE - 1 - rows.max())) <= 2
    assert seen[4].sum() == pytest.approx(seen[3].sum(), rel=0.1)


def test_it_tells_which_way_a_head_looks_though_half_of_it_is_hidden():
    turns = np.array([-0.3, -0.15, 0.0, 0.15, 0.3])
    told = []
    for yaw in turns:
        normals, valid = head(128, float(yaw))
        known = valid.copy()
        known[20:110, 64:] = False
        looks = pose(normals, known, valid)
        assert np.linalg.norm(looks.across) == pytest.approx(1, abs=1e-5) and looks.across[0] > 0
        assert 0 < looks.doubt < 1
        told.append(-np.arcsin(looks.across[2]))
    # An egg with a nose is no head that it learned from.
    assert (np.diff(told) > 0).all() and np.corrcoef(turns, told)[0, 1] > 0.9


def test_a_mirrored_map_looks_the_other_way():
    normals, valid = head(128, 0.2, 0.1)
    known = valid.copy()
    known[20:90, 70:] = False
    one = pose(normals, known, valid)
    mirrored = normals[:, ::-1] * np.array([-1, 1, 1], np.float32)
    other = pose(mirrored, known[:, ::-1], valid[:, ::-1])
    assert np.allclose(one.across, other.across * [1, -1, -1], atol=1e-4)
    assert one.doubt == pytest.approx(other.doubt, rel=1e-3)


def test_what_is_hidden_does_not_matter():
    normals, valid = head(128, 0.2)
    known = valid.copy()
    known[20:90, 70:] = False
    one = pose(normals, known, valid)
    other = pose(np.where(known[..., None], normals, np.float32(0.5)), known, valid)
    assert np.array_equal(one.across, other.across)


@pytest.mark.parametrize("content", [None, b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_weights_that_are_missing_or_damaged_are_told(tmp_path, monkeypatch, content):
    path = tmp_path / "head_pose.npz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(module, "default_path", lambda: path)
    normals, valid = head(64)
    with pytest.raises(InpaintError) as caught:
        pose(normals, valid, valid)
    assert caught.value.code == ("weights_missing" if content is None else "weights_damaged")
    assert caught.value.hint and "head_pose.npz" in caught.value.message


def test_weights_of_another_network_are_told(tmp_path, monkeypatch):
    path = tmp_path / "head_pose.npz"
    np.savez(path, weight0=np.zeros((2, 5, 3, 3)), bias0=np.zeros(2))
    monkeypatch.setattr(module, "default_path", lambda: path)
    normals, valid = head(64)
    with pytest.raises(InpaintError, match="cannot be read"):
        pose(normals, valid, valid)
