"""How a network's weights move: AdamW, or Muon for the convolutions in its middle."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("adamw", "muon")


def learning_rate(first: float, last: float, step: int, progress: float, warm_up: int) -> float:
    """A warm-up over a run's first steps, and a cosine from a first rate to a last as progress goes to 1."""
    rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return rate * min(1.0, (step + 1) / max(warm_up, 1))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int, ema: float) -> None:
    """Move the average of a network's weights towards them, after a step.

    Args:
        average: a network of the same kind.
        network: the one that learns.
        step: how many steps there were before; a young run's average would hold on to its random start.
        ema: share of itself that the average keeps in the long run.
    """
    decay = min(ema, (1 + step) / (10 + step))
    for mean, now in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, 1 - decay)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)  # statistics of batch normalisation are averages already


class Optimizer:
    """AdamW for all weights, or Muon for those of inner convolutions and AdamW for the rest.

    Muon (K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) makes each step
    of a matrix nearly orthogonal, so that no direction in a layer is left behind. The matrix of a
    convolution leads from a patch to its output channels. Steps are scaled to the size of AdamW's (J. Liu et
    al., arXiv 2502.16982), so that both take the same learning rates.

    Args:
        network: whose weights to move, in their final place and memory format. Its `outer_layers` names the
            layers that read the input or write the answer, which Muon is not made for.
        kind: "adamw" or "muon".
        weight_decay: decoupled from the gradient, times the learning rate.
    """

    def __init__(self, network: nn.Module, kind: str, weight_decay: float):
        outer: tuple[str, ...] = getattr(network, "outer_layers", ())
        inner: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            hidden = parameter.ndim == 4 and not name.startswith(tuple(f"{layer}." for layer in outer))
            (inner if kind == "muon" and hidden else rest).append(parameter)
        self._adamw = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.99), weight_decay=weight_decay)
        # PyTorch's Muon takes matrices: views of the weights, which move as they move.
        self._inner = [(weight, nn.Parameter(_matrix(weight.data, weight))) for weight in inner]
        self._muon: torch.optim.Muon | None = None
        if inner:
            matrices = [matrix for _, matrix in self._inner]
            self._muon = torch.optim.Muon(
                matrices, lr=1e-3, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )

    def step(self, rate: float) -> None:
        """Move all weights along their gradients at a learning rate."""
        for weight, matrix in self._inner:
            matrix.grad = None if weight.grad is None else _matrix(weight.grad, weight)
        for part in (self._adamw, self._muon):
            if part is not None:
                for group in part.param_groups:
                    group["lr"] = rate
                part.step()

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        state = self._adamw.state_dict()
        return state if self._muon is None else {**state, "muon": self._muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        state = dict(state)
        if self._muon is not None:
            self._muon.load_state_dict(state.pop("muon"))
        self._adamw.load_state_dict(state)


def _matrix(values: Tensor, weight: Tensor) -> Tensor:
    """A convolution's weight or its gradient (o, i, h, w) as (o, n), columns as they lie in the weight."""
    if weight.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.reshape(len(values), -1)
