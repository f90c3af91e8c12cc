"""The papers' comparison, small: a table of every combination, pictures, and a study that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the trainer needs PyTorch")
for _name in ("cv2", "scipy"):
    pytest.importorskip(_name, reason="the trainer needs it")

from blender_normal_inpaint.nets import build_generator  # noqa: E402
from trainer import study as module  # noqa: E402
from trainer.shards import Shard, encode  # noqa: E402
from trainer.sources.skin import skin_map  # noqa: E402
from trainer.study import Settings, study  # noqa: E402

OURS = {"widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "heads": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        maps = np.stack([encode(skin_map(rng, 48), np.ones((48, 48), np.bool_)) for _ in range(count)])
        Shard(maps, np.arange(count), "tangent").save(folder / split / "skin.npz")
    return folder


def test_a_study_compares_everything_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        str(data), 32, steps=2, batch=4, styles=("lines", "blob"), width=4, generator=OURS, cases=4,
        space="tangent",
    )  # fmt: skip
    trained: list[str] = []

    class StoppedError(Exception):
        pass

    class Counted(module.Trainer):
        def run(self) -> None:
            if len(trained) == 3 and not resumed:
                raise StoppedError
            trained.append(self.folder.name)
            super().run()

    monkeypatch.setattr(module, "Trainer", Counted)
    resumed = False
    with pytest.raises(StoppedError):
        study(settings, tmp_path, lambda _: None)
    resumed = True
    report = study(settings, tmp_path, lambda _: None)
    assert len(trained) == len(set(trained)) == 12  # three networks, two styles, with and without
    table = report.read_text(encoding="utf-8")
    for style in ("lines", "blob"):
        for network in ("bow-tie", "U-Net", "ours"):
            for channel in ("yes", "no"):
                assert f"| {style} | {network} | {channel} |" in table
        assert f"| {style} | biharmonic |" in table
        assert (tmp_path / f"{style}.png").stat().st_size > 1000
    rows = json.loads((tmp_path / "study.json").read_text())["rows"]
    for _, _, channel, values in rows:
        assert 0 <= values["mean"] <= 180 and values["p95"] > 0
        assert not channel or 0 <= values["judge_test"] <= 1
    with pytest.raises(ValueError, match=r"other settings \(steps\)"):
        study(Settings(**{**vars(settings), "steps": 3}), tmp_path, lambda _: None)


def test_settings_are_checked(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        study(Settings(str(data), size=48), tmp_path, lambda _: None)
    with pytest.raises(ValueError, match="oracle"):
        study(Settings(str(data), networks=("oracle",)), tmp_path, lambda _: None)


@pytest.mark.parametrize("kind", ["face", "bowtie", "paper_unet"])
def test_without_the_mask_channel_a_network_cannot_tell_where_the_hole_is(kind: str) -> None:
    torch.manual_seed(0)
    shape = OURS if kind == "face" else {"width": 4}
    crops = torch.randn(1, 11, 64, 64)
    crops[:, :5, 20:40, 20:40] = 0
    crops[:, 3], crops[:, 4] = 0, 1
    crops[:, 4, 20:40, 20:40] = 0
    told = crops.clone()
    told[:, 3, 20:40, 20:40] = 1
    told[:, 4, 20:40, 20:40] = 1
    for mask_channel in (True, False):
        generator = build_generator({"kind": kind, "mask_channel": mask_channel, **shape}).eval()
        with torch.no_grad():
            same = torch.equal(generator(crops), generator(told))
        assert same is not mask_channel
