"""The generator: fills the holes of a normal map from everything around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_CHANNELS = 11


def unit_normalise(vectors: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Divide vectors (N, 3, H, W) by their length; a zero vector stays zero and keeps a finite gradient."""
    return vectors / torch.sqrt((vectors * vectors).sum(dim=1, keepdim=True) + epsilon)


def _conv(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, dilation: int = 1, gain: float = 1.0
) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=dilation * (size // 2), dilation=dilation)
    nn.init.kaiming_normal_(conv.weight, a=0.1)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    with torch.no_grad():
        conv.weight.mul_(gain)
    return conv


def _act(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)


class ResidualBranch(nn.Module):
    """A block beside the identity, whose last layer can be shut so that the block begins as the identity."""

    last_layer = ""

    def close(self) -> None:
        """Make the block the identity; it opens again as it learns."""
        layer = getattr(self, self.last_layer)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class _Residual(ResidualBranch):
    """Two convolutions beside the identity.

    No normalisation layers: the statistics of a crop with a large hole are not those of a crop without, and
    none have to be kept between sizes. A small initial gain keeps a deep stack stable instead.
    """

    last_layer = "second"

    def __init__(self, width: int, dilation: int = 1):
        super().__init__()
        self.first = _conv(width, width, dilation=dilation)
        self.second = _conv(width, width, gain=0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(_act(self.first(_act(x))))
        return x + out


class _Attention(ResidualBranch):
    """Self-attention over all places of the coarsest grid: every hole sees the whole crop.

    The places' vectors are made comparable by an RMS norm over channels. There is no position code; the
    padded convolutions before it tell where the border is, and so any size works.
    """

    last_layer = "out"

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.xavier_normal_(self.qkv.weight)
        nn.init.xavier_normal_(self.out.weight, gain=0.2)
        for layer in (self.qkv, self.out):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        normed = x * torch.rsqrt((x * x).mean(dim=1, keepdim=True) + 1e-6) * self.scale
        qkv = self.qkv(normed).reshape(n, 3, self.heads, self.head_width, h * w)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        weights = torch.softmax(q.transpose(2, 3) @ k * self.head_width**-0.5, dim=-1)
        mixed = (v @ weights.transpose(2, 3)).reshape(n, c, h, w)
        out: Tensor = self.out(mixed)
        return x + out


class _Up(nn.Module):
    """Double the size by repeating texels, then mix with the encoder's features of that size.

    Repeating before a 3x3 convolution, unlike a strided transposed one, favours no texel: no checkerboard.
    The wide-to-narrow mix runs before the repeat, where it costs a quarter.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.narrow = _conv(inputs, outputs, 1)
        self.skip = _conv(outputs, outputs, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        low = self.narrow(x)
        out: Tensor = functional.interpolate(low, scale_factor=2.0, mode="nearest") + self.skip(skip)
        return out


class FaceGenerator(nn.Module):
    """U-Net behind a space-to-depth stem, with dilated convolutions and attention at its coarsest grid.

    It improves on the first guess: what it answers is added to the guess under a weight of its own making,
    for each texel, so that what a smooth continuation already does well needs no learning.

    The stem folds 2x2 texels into channels, so that no convolution runs at full size and 512 x 512 stays
    quick on a laptop's CPU. Sides must be multiples of 16.

    Args:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the size.
        depths: residual blocks at each of these sizes, on the way down and (but for the last) up again.
        heads: attention heads at the coarsest size.
        mask_channel: False hides from it what the hole is, to measure what that knowledge is worth: the hole
            plane is zero, and the valid plane shows known texels alone.
    """

    size_multiple = 16
    outer_layers = ("stem", "head", "gate")

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (24, 64, 128, 256),
        depths: tuple[int, int, int, int] = (1, 1, 2, 2),
        heads: int = 8,
        mask_channel: bool = True,
    ):
        super().__init__()
        self.mask_channel = mask_channel
        a, b, c, d = widths
        self.stem = _conv(4 * INPUT_CHANNELS, a)
        self.down_a = nn.Sequential(*(_Residual(a) for _ in range(depths[0])))
        self.to_b = _conv(a, b, 4, 2)
        self.to_b.padding = (1, 1)
        self.down_b = nn.Sequential(*(_Residual(b) for _ in range(depths[1])))
        self.to_c = _conv(b, c, 3, 2)
        self.down_c = nn.Sequential(*(_Residual(c) for _ in range(depths[2])))
        self.to_d = _conv(c, d, 3, 2)
        middle: list[nn.Module] = []
        for i in range(depths[3]):
            middle += [_Residual(d, dilation=1 + i % 2), _Attention(d, heads)]
        self.middle = nn.Sequential(*middle)
        self.up_c = _Up(d, c)
        self.after_c = nn.Sequential(*(_Residual(c) for _ in range(depths[2])))
        self.up_b = _Up(c, b)
        self.after_b = nn.Sequential(*(_Residual(b) for _ in range(depths[1])))
        self.up_a = _Up(b, a)
        self.after_a = nn.Sequential(*(_Residual(a) for _ in range(depths[0])))
        self.head = _conv(a, 12, gain=0.1)
        self.gate = _conv(a, 4, gain=0.1)
        # The four texels of a cell start alike, and towards the viewer: no checkerboard at the start.
        with torch.no_grad():
            self.head.weight.copy_(self.head.weight[::4].repeat_interleave(4, dim=0))
            assert self.head.bias is not None
            self.head.bias[8:] = 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 11, H, W) crops, channels as in the model card, to (N, 3, H, W) unit normals."""
        if not self.mask_channel:  # Nor may the guess, which is made with the mask, tell.
            hole, valid = x[:, 3:4], x[:, 4:5]
            known = valid * (1 - hole)
            x = torch.cat([x[:, :3], torch.zeros_like(hole), known, x[:, 5:8], x[:, :3]], dim=1)
        a = self.down_a(self.stem(functional.pixel_unshuffle(x, 2)))
        b = self.down_b(self.to_b(_act(a)))
        c = self.down_c(self.to_c(_act(b)))
        d = self.middle(self.to_d(_act(c)))
        c = self.after_c(self.up_c(_act(d), c))
        b = self.after_b(self.up_b(_act(c), b))
        a = self.after_a(self.up_a(_act(b), a))
        # In mixed precision the length is still computed in full.
        out = functional.pixel_shuffle(self.head(_act(a)), 2).float()
        out = out + functional.pixel_shuffle(self.gate(_act(a)), 2).float() * x[:, 8:]
        # Where the raw output is nearly zero, at a fold, epsilon leaves it short; the second pass mends that
        # and still has a finite gradient.
        return unit_normalise(unit_normalise(out))
