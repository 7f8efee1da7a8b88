"""Optimizers, with a learning rate and a weight decay for each kind of layer, and one of their own for biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from anipot.potential import Potential
from anipot.training.layers import Scales, layers_of, networks_of

#: What ``OptimizerSettings`` knows.
KINDS = ("Adam", "AdamW", "SGD")


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer trains a potential.

    Attributes
    ----------
    kind
        ``"Adam"``, ``"AdamW"`` or ``"SGD"``.
    lr
        Learning rate.
    weight_decay
        Of all weights but biases, embeddings and the like; or a list for the layers of the heads' networks, from the
        first to the last, and the rest of the weights gets none. The ANI recipe is ``[0, 1e-5, 1e-6, 0]``.
    biases
        Learning rate of a plain SGD for the biases of the heads' networks, as in TorchANI's training; by default they
        are trained as everything else.
    options
        Further arguments of ``torch.optim``'s class, such as ``{"amsgrad": True}``.

    Raises
    ------
    ValueError
        For a kind that is not known, or numbers that make no sense.

    Examples
    --------
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential
    >>> networks = [AtomicNetwork((384, 160, 128, 96, 1), CELU(0.1)) for _ in range(4)]
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> optimizer = OptimizerSettings("AdamW", 1e-3, [0, 1e-5, 1e-6, 0], biases=1e-3).build(model)
    >>> [type(part).__name__ for part in optimizer.parts]
    ['AdamW', 'SGD']
    """

    kind: str = "AdamW"
    lr: float = 1e-3
    weight_decay: float | Sequence[float] = 0.0
    biases: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"optimizer must be one of {', '.join(KINDS)}, got {self.kind!r}")
        decays = [self.weight_decay] if isinstance(self.weight_decay, int | float) else self.weight_decay
        rates = [self.lr] if self.biases is None else [self.lr, self.biases]
        if not all(rate > 0 for rate in rates) or not all(decay >= 0 for decay in decays):
            raise ValueError(f"learning rates must be positive and weight decay at least 0, got {rates} and {decays}")

    def build(self, potential: Potential, scales: Scales | None = None) -> Together:
        """Return the optimizer of the parameters of a potential that are to be trained.

        Parameters
        ----------
        potential
            Those of its parameters that require a gradient are trained.
        scales
            Of inputs and outputs of the networks; see ``anipot.training.layers``.

        Raises
        ------
        ValueError
            If there is nothing to train, or a network has another number of layers than there are weight decays.
        """
        scales = scales or Scales()
        main, biases = self._groups(potential, scales)
        if not main and not biases:
            raise ValueError("there is nothing to train: all parameters of the potential are frozen")
        parts = [self._optimizer(main)] if main else []
        if biases:
            parts.append(torch.optim.SGD(biases, lr=float(self.biases or 0.0)))
        known = dict(potential.named_parameters())
        inputs = [Inputs(known[name], known.get(_bias(name)), *values) for name, values in scales.inputs.items()]
        return Together(parts, [one for one in inputs if one.weight.requires_grad])

    def _optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        make: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, self.kind)
        # One pass over each tensor instead of a dozen; of several devices and dtypes torch takes care itself.
        fused: dict[str, Any] = {} if "foreach" in self.options or "differentiable" in self.options else {"fused": True}
        return make(groups, lr=self.lr, **fused | dict(self.options))

    def _groups(self, potential: Potential, scales: Scales) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return groups of parameters with equal settings, and those of biases that are trained apart."""
        main: dict[Any, dict[str, Any]] = {}
        apart: dict[Any, dict[str, Any]] = {}
        places = self._places(potential)
        for name, parameter in potential.named_parameters():
            if not parameter.requires_grad:
                continue
            decay, bias = places.get(parameter, (self._decay_elsewhere(parameter), False))
            scale, own = scales.outputs.get(name, 1.0), bias and self.biases is not None
            group = (apart if own else main).setdefault((decay, scale), {"params": [], "lr_scale": scale})
            group["params"].append(parameter)
            group["lr"] = (float(self.biases or 0.0) if own else self.lr) * scale
            if not own:  # AdamW's is multiplied with the learning rate, of which the scale is no part
                group["weight_decay"] = decay / scale if self.kind == "AdamW" else decay
        return list(main.values()), list(apart.values())

    def _places(self, potential: Potential) -> dict[Tensor, tuple[float, bool]]:
        """Return the weight decay of each parameter of the heads' networks, and whether it is a bias."""
        found: dict[Tensor, tuple[float, bool]] = {}
        for where, network in networks_of(potential):
            layers = layers_of(network)
            if not isinstance(self.weight_decay, int | float) and len(self.weight_decay) != len(layers):
                raise ValueError(
                    f"weight_decay has {len(self.weight_decay)} numbers, but {where} has {len(layers)} layers"
                )
            for i, layer in enumerate(layers):
                decay = self.weight_decay if isinstance(self.weight_decay, int | float) else self.weight_decay[i]
                found[layer.weight] = (float(decay), False)
                if layer.bias is not None:
                    found[layer.bias] = (0.0, True)
        return found

    def _decay_elsewhere(self, parameter: nn.Parameter) -> float:
        """Return the weight decay of a parameter outside the heads: of matrices, unless layers have theirs."""
        plain = isinstance(self.weight_decay, int | float)
        return float(self.weight_decay) if plain and parameter.dim() > 1 else 0.0  # type: ignore[arg-type]


def _bias(weight: str) -> str:
    """Return the name of the bias that belongs to a weight."""
    return f"{weight.removesuffix('weight')}bias"


class Inputs(NamedTuple):
    """What the inputs of a layer are like: factor · (input − center) is near 0 and of size 1."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    #: (F,)
    factor: Tensor
    center: Tensor


class Together(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, that Lightning and schedules take for one.

    Parameters
    ----------
    parts
        The optimizers; groups of parameters stay theirs.
    inputs
        Layers whose weights take the steps that they would take if their inputs were standardised.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer], inputs: Sequence[Inputs] = ()) -> None:
        self.parts, self.inputs = list(parts), list(inputs)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let schedules, which change groups, change those of the parts."""
        self.param_groups: list[dict[str, Any]] = [group for part in self.parts for group in part.param_groups]
        self.inputs = [
            one._replace(factor=one.factor.to(one.weight), center=one.center.to(one.weight)) for one in self.inputs
        ]
        groups = {id(p): (part, group) for part in self.parts for group in part.param_groups for p in group["params"]}
        #: Of the weights of inputs: their optimizer, and their group.
        self._places = [groups[id(one.weight)] for one in self.inputs]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [
            (one, place, one.weight.clone())
            for one, place in zip(self.inputs, self._places, strict=True)
            if one.weight.grad is not None
        ]
        for one, *_ in moved:
            if one.bias is not None and one.bias.grad is not None:  # the slope by the weight at inputs − center
                one.weight.grad.addr_(one.bias.grad, one.center, alpha=-1)  # type: ignore[union-attr]
        for part in self.parts:
            part.step()
        for one, (part, group), old in moved:
            torch.lerp(old, one.weight, one.factor, out=one.weight)
            if isinstance(part, torch.optim.AdamW) and (decay := group["lr"] * group["weight_decay"]):
                one.weight.addcmul_(
                    old, one.factor - 1, value=float(decay)
                )  # a share of the weight, without the factor
            if one.bias is not None and one.bias.grad is not None:
                one.bias.addmv_(one.weight - old, one.center, alpha=-1)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each."""
        inputs = [(one.factor, one.center) for one in self.inputs]
        return {"parts": [part.state_dict() for part in self.parts], "inputs": inputs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        stored = zip(self.inputs, state_dict["inputs"], strict=True)
        self.inputs = [one._replace(factor=factor, center=center) for one, (factor, center) in stored]
        self._share()
