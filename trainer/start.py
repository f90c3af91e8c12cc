"""The weights that a run starts from: a card's, checked against the network that is trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from blender_normal_inpaint.core.modelcard import ModelCard, verify
from blender_normal_inpaint.worker.engines import load_safetensors


def starting_weights(card: ModelCard, mine: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A card's weights for a network.

    Args:
        card: the card.
        mine: the network's own weights, by name.

    Returns:
        By name, float32: all of the card's. The network may have more blocks.

    Raises:
        ValueError: the weights are of another network.
        InpaintError: they are missing or damaged.
    """
    given = {
        name: torch.from_numpy(values.astype(np.float32))
        for name, values in load_safetensors(verify(card, "safetensors")).items()
    }
    odd = [name for name, value in given.items() if name not in mine or mine[name].shape != value.shape]
    if odd:
        raise ValueError(f"{card.path} holds the weights of another network: {', '.join(odd[:3])}")
    return given
