"""The weights that a run starts from: a card's, in the shapes of the network that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blender_normal_inpaint.core.modelcard import load_card, verify
from blender_normal_inpaint.worker.engines import load_safetensors

#: Layers that a network with a mirror image has more channels of: zeros leave it unread.
GROWN = ("stem.weight", "gate.weight", "gate.bias")


def starting_weights(card_path: Path, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A card's weights in the shapes of a network's.

    Args:
        card_path: the card.
        mine: the network's own weights, by name.

    Returns:
        By name, float32: all of the card's. The network may have more, whole blocks and a mirror image.

    Raises:
        ValueError: the weights are of another network.
        InpaintError: they are missing or damaged.
    """
    card = load_card(card_path)
    given = {
        name: torch.from_numpy(values.astype(np.float32))
        for name, values in load_safetensors(verify(card, "safetensors")).items()
    }
    for name in GROWN:
        if name in given and name in mine:
            grown = torch.zeros_like(mine[name])
            part = tuple(slice(n) for n in given[name].shape)
            if grown[part].shape == given[name].shape:
                grown[part] = given[name]
                given[name] = grown
    odd = [name for name, value in given.items() if name not in mine or mine[name].shape != value.shape]
    if odd:
        raise ValueError(f"{card_path} holds the weights of another network: {', '.join(odd[:3])}")
    return given
