"""Discriminators: is this map, or this part of it, filled in or real?"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Ours, and the papers'.
KINDS = ("patch", "dcgan")


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of (normals, their fine part, hole, valid): texture and features, not faces.

    What tells a filled map from a true one is mostly fine and faint, a lid that is a little soft: so it sees
    each texel's difference from the mean of the nine about it, too, `FINE` times as large. It is held by the
    penalty on its slope alone (R1), as in StyleGAN2 (Karras et al., 2020): bounded by spectral normalisation
    besides it learns several times slower.

    Args:
        width: channels after the first layer; they double twice. A patch is 78 texels across, an eye with
            its brow.
    """

    #: How many times as large the fine part is seen.
    FINE = 8.0

    def __init__(self, width: int = 48):
        super().__init__()
        channels = (8, width, 2 * width, 4 * width, 4 * width)
        layers = [nn.Conv2d(i, o, 4, 2, 1) for i, o in pairwise(channels)]
        self.verdict = nn.Conv2d(channels[-1], 1, 3, 1, 1)
        for layer in (*layers, self.verdict):
            nn.init.kaiming_normal_(layer.weight, 0.2)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def forward(self, normals: Tensor, hole: Tensor, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge maps.

        Args:
            normals: (n, 3, h, w) with zeros off the surface.
            hole: (n, 1, h, w).
            valid: (n, 1, h, w).

        Returns:
            Verdicts (n, 1, h/16, w/16), positive for real, and the features of every layer.
        """
        smooth = functional.avg_pool2d(functional.pad(normals, (1, 1, 1, 1), "replicate"), 3, 1)
        x = torch.cat([normals, hole, valid, self.FINE * (normals - smooth) * valid], dim=1)
        features: list[Tensor] = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            features.append(x)
        verdict: Tensor = self.verdict(x)
        return verdict, features


def patch_weight(hole: Tensor, valid: Tensor, like: Tensor) -> Tensor:
    """How much hidden surface each verdict sees, (n, 1, h', w') in 0..1."""
    return functional.adaptive_max_pool2d(hole * valid, like.shape[2:])


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1.0)


def discriminator_loss(real: Tensor, fake: Tensor, weight: Tensor, kind: str) -> Tensor:
    """Loss of the discriminator over verdicts that see a hole.

    Args:
        real: verdicts on undamaged maps, positive for real.
        fake: verdicts on filled maps.
        weight: how much each verdict counts.
        kind: "patch" takes the hinge loss, "dcgan" binary cross entropy as the papers do.
    """
    if kind == "dcgan":
        return _mean(functional.softplus(-real), weight) + _mean(functional.softplus(fake), weight)
    return _mean(functional.relu(1 - real), weight) + _mean(functional.relu(1 + fake), weight)


@torch.no_grad()
def share_right(real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
    """The discriminator's accuracy: the share of its verdicts that are right, half of them on real maps."""
    return (_mean((real > 0).float(), weight) + _mean((fake < 0).float(), weight)) / 2


@torch.no_grad()
def accuracy(judge: nn.Module, truth: Tensor, composite: Tensor, hole: Tensor, valid: Tensor) -> float:
    """The accuracy of a discriminator, in evaluation mode, on true and on repaired maps (n, 3, h, w)."""
    learning = judge.training
    judge.eval()
    real, _ = judge(truth * valid, hole, valid)
    fake, _ = judge(composite, hole, valid)
    judge.train(learning)
    return float(share_right(real, fake, patch_weight(hole, valid, real)))


def generator_adversarial(fake: Tensor, weight: Tensor, kind: str) -> Tensor:
    """The generator's loss that goes with `discriminator_loss`."""
    return _mean(functional.softplus(-fake), weight) if kind == "dcgan" else -_mean(fake, weight)


def feature_matching(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean difference of the discriminator's features (pix2pixHD, Wang et al., 2018)."""
    total = fake[0].new_zeros(())
    for a, b in zip(fake, real, strict=True):
        total = total + (a - b.detach()).abs().mean() / b.detach().abs().mean().clamp_min(1e-3)
    return total / len(fake)


def r1_penalty(model: nn.Module, normals: Tensor, hole: Tensor, valid: Tensor) -> Tensor:
    """Mean squared gradient of a verdict on real maps (Mescheder et al., 2018).

    Of each verdict, not of their sum, which overlapping patches make hundreds of times as steep: bounded by
    that, they must all be flat. The sum under random signs has the squares of all in expectation
    (Hutchinson's estimator).

    Args:
        model: the discriminator.
        normals: (n, 3, h, w) real maps.
        hole: (n, 1, h, w).
        valid: (n, 1, h, w).
    """
    normals = normals.detach().requires_grad_(True)
    verdict, _ = model(normals, hole, valid)
    signs = torch.randint(0, 2, verdict.shape).to(verdict) * 2 - 1
    (slope,) = torch.autograd.grad((verdict * signs).sum(), normals, create_graph=True)
    penalty: Tensor = (slope**2).sum(dim=(1, 2, 3)).mean() / verdict[0].numel()
    return penalty


class DcganDiscriminator(nn.Module):
    """The papers' discriminator: one verdict on the whole map.

    Kept from the papers: strided convolutions, batch normalisation, LeakyReLU 0.2, a sigmoid at the end (here
    inside the loss, as logits). Guessed: five layers of 4x4 convolutions, 64 channels doubling up to 512; and
    that it sees the repaired map alone, without the mask.

    Args:
        width: channels after the first layer.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for level in range(5):
            outputs = min(width * 2**level, width * 8)
            layers.append(nn.Conv2d(inputs, outputs, 4, 2, 1))
            if level > 0:
                layers.append(nn.BatchNorm2d(outputs))
            layers.append(nn.LeakyReLU(0.2))
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.verdict = nn.Linear(inputs, 1)

    def forward(self, normals: Tensor, hole: Tensor, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge whole maps, with the signature of `PatchDiscriminator`; hole and valid are not looked at.

        Returns:
            One logit a map (n, 1, 1, 1), positive for real, and the features of every layer.
        """
        x, features = normals, []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                features.append(x)
        verdict: Tensor = self.verdict(x.mean(dim=(2, 3)))
        return verdict[:, :, None, None], features


def build_discriminator(kind: str, width: int) -> nn.Module:
    """Build a discriminator of `KINDS`.

    Raises:
        ValueError: the kind is not known.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown discriminator {kind!r}; known: {', '.join(KINDS)}")
    return PatchDiscriminator(width) if kind == "patch" else DcganDiscriminator(width)
