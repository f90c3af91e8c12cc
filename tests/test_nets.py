"""The networks: unit output, free sizes, a view of the whole crop."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need PyTorch")

from blender_normal_inpaint.core.modelcard import INPUT_CHANNELS, default_card_path, load_card  # noqa: E402
from blender_normal_inpaint.nets import build_generator  # noqa: E402

SMALL: dict[str, Any] = {"kind": "face", "widths": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "heads": 2}


def _crops(n: int, h: int, w: int, seed: int = 0) -> Any:
    return torch.from_numpy(
        np.random.default_rng(seed).normal(size=(n, len(INPUT_CHANNELS), h, w)).astype(np.float32)
    )


@pytest.mark.parametrize(
    "config",
    [SMALL, {"kind": "bowtie", "width": 8}, {"kind": "paper_unet", "width": 8, "mask_channel": False}],
)
@pytest.mark.parametrize("shape", [(2, 64, 64), (1, 96, 160)])
def test_output_is_unit_at_any_size(config: dict[str, Any], shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    generator = build_generator(config).eval()
    with torch.no_grad():
        out = generator(_crops(*shape))
    assert out.shape == (shape[0], 3, *shape[1:])
    off = (out.norm(dim=1) - 1).abs()
    assert float(off.median()) < 1e-3
    # The papers' epsilon leaves nearly-zero outputs short; ours must be unit everywhere.
    assert float(off.max()) < (1e-3 if config["kind"] == "face" else 1.001)


def test_size_multiple_is_enough_for_the_smallest_input() -> None:
    for config in (SMALL, {"kind": "bowtie", "width": 4}):
        generator = build_generator(config).eval()
        side: Any = generator.size_multiple
        assert generator(_crops(1, side, side)).shape == (1, 3, side, side)


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        build_generator({"kind": "nosuch"})


def test_a_far_texel_reaches_every_hole() -> None:
    """A plain convolutional net of this depth could not see across 512 texels; attention does."""
    torch.manual_seed(0)
    generator = build_generator(SMALL).eval()
    crops = _crops(1, 512, 512)
    changed = crops.clone()
    changed[:, :3, 500:, 500:] += 3
    with torch.no_grad():
        difference = (generator(crops) - generator(changed))[:, :, :32, :32].abs().max()
    assert float(difference) > 1e-6


def test_the_bundled_size_fits_the_budget() -> None:
    recipe = Path(__file__).resolve().parent.parent / "trainer" / "configs" / "bundled.toml"
    generator = build_generator(tomllib.loads(recipe.read_text(encoding="utf-8"))["generator"])
    count = sum(p.numel() for p in generator.parameters())
    assert 2 * count < 36e6  # stored once, two bytes a parameter; the rest of 40 MB is for graphs and pose
    card = load_card(default_card_path())
    assert sum(entry.bytes for entry in card.files.values()) < 40e6


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    generator = build_generator(SMALL)
    generator(_crops(2, 64, 64))[:, 0].sum().backward()
    still = [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias on keys moves every score of a row alike, and softmax forgets it: the sum stays, the rest learns.
    assert still == []
