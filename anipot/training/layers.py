"""The networks of a potential's heads, layer by layer, and the scales of what goes in and comes out of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from anipot.head import AtomicNetwork
from anipot.potential import Potential


@dataclass
class Scales:
    """What inputs and outputs of networks are like, by the names of parameters, for steps of the right size.

    Features of very different sizes and outputs far from 1 are learned badly by steps of one size. An optimizer that
    knows their means and sizes does what it would do if they were standardised, and nothing has to be put into the
    potential: for Adam, whose steps do not depend on how large gradients are, steps are multiplied with factors.
    """

    #: Of the weight of a first layer: factor and center of each of its inputs, (2, F), for factor · (input − center).
    inputs: dict[str, Tensor] = field(default_factory=dict)
    #: Of weight and bias of a last layer each: size of the output.
    outputs: dict[str, float] = field(default_factory=dict)


def networks_of(potential: Potential) -> Iterator[tuple[str, nn.Module]]:
    """Yield the dense networks in heads and terms of a potential, with their names."""
    for name, module in potential.named_modules():
        if "representation" not in name.split(".") and layers_of(module):
            yield name, module


def layers_of(network: nn.Module) -> list[nn.Linear]:
    """Return the layers of an ``AtomicNetwork`` or of a ``Sequential``, from first to last; none of other modules."""
    if isinstance(network, AtomicNetwork):
        return [layer for layer in network.linears if isinstance(layer, nn.Linear)]
    if type(network) is nn.Sequential:
        return [layer for layer in network if isinstance(layer, nn.Linear)]
    return []
