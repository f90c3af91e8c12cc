"""The papers' generators: bow-tie and U-Net with a unit-normalise layer.

Zuo and Tiddeman, "Inpainting Normal Maps for Lightstage data" (arXiv 2401.08099) and Computers 2024, 13(2),
56. Neither the tables nor the layer lists were at hand. Known, and kept here: both are DCGAN-like
encoder-decoders on square maps, the bow-tie without skip connections, the U-Net with them; the output is tanh
followed by L2 normalisation with epsilon 1e-6; the mask is an input channel or is left out. Guessed: five
halvings from the full size by strided 4x4 convolutions, 64 channels doubling up to 512, batch normalisation
and LeakyReLU 0.2 on the way down, ReLU on the way up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .generator import unit_normalise

DEPTH = 5


def _width(base: int, level: int) -> int:
    return base * min(1 << level, 8)


class _PaperGenerator(nn.Module):
    """The two generators share everything but the skips.

    Args:
        width: channels after the first layer.
        mask_channel: whether the network is told where the hole is.
        skips: whether the decoder sees the encoder's features.
    """

    size_multiple = 2**DEPTH
    outer_layers = ("down.0", "head")

    def __init__(self, width: int, mask_channel: bool, skips: bool):
        super().__init__()
        self.mask_channel = mask_channel
        self.skips = skips
        inputs = 4 if mask_channel else 3
        down: list[nn.Module] = []
        for level in range(DEPTH):
            outputs = _width(width, level)
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, 2, 1)]
            if level > 0:  # DCGAN: no normalisation right after the picture.
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2))
            down.append(nn.Sequential(*layers))
            inputs = outputs
        self.down = nn.ModuleList(down)
        up: list[nn.Module] = []
        for level in reversed(range(DEPTH - 1)):
            outputs = _width(width, level)
            up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()
                )
            )
            inputs = outputs * 2 if skips else outputs
        self.up = nn.ModuleList(up)
        self.head = nn.ConvTranspose2d(inputs, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 11, H, W) crops, channels as in the model card, to (N, 3, H, W) unit normals."""
        x = x[:, :4] if self.mask_channel else x[:, :3]
        features: list[Tensor] = []
        for layer in self.down:
            x = layer(x)
            features.append(x)
        for i, layer in enumerate(self.up):
            x = layer(x)
            if self.skips:
                x = torch.cat([x, features[DEPTH - 2 - i]], dim=1)
        return unit_normalise(torch.tanh(self.head(x)))


class BowTie(_PaperGenerator):
    """The papers' first generator: an encoder and a decoder that meet in a narrow waist."""

    def __init__(self, width: int = 64, mask_channel: bool = True):
        super().__init__(width, mask_channel, skips=False)


class PaperUNet(_PaperGenerator):
    """The papers' better generator: the same with skip connections."""

    def __init__(self, width: int = 64, mask_channel: bool = True):
        super().__init__(width, mask_channel, skips=True)
