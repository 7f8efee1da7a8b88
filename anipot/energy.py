"""Self energies, and the chain of modules that carries cell and pbc along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anipot import known
from anipot.exact import ExactBuffers
from anipot.structures import SpeciesEnergies


class EnergyShifter(ExactBuffers):
    """Add the self energies of the atoms, in float64.

    Parameters
    ----------
    self_energies
        Hartree, in the order of the element indices; with ``fit_intercept`` one more value, added once per molecule.
        None leaves them to be set later.
    fit_intercept
        Whether the last value is an intercept.

    Notes
    -----
    Self energies do not follow ``.float()``: those of a molecule of 60 atoms would lose 0.15 kcal/mol in float32.

    Examples
    --------
    >>> import torch
    >>> shifter = EnergyShifter([-0.5, -38.0])
    >>> shifter((torch.tensor([[1, 0, 0, 0, 0, -1]]), torch.zeros(1))).energies
    tensor([-40.], dtype=torch.float64)
    """

    self_energies: Tensor

    def __init__(self, self_energies: Sequence[float] | Tensor | None, fit_intercept: bool = False) -> None:
        super().__init__()
        self.fit_intercept = fit_intercept
        values = torch.empty(0) if self_energies is None else torch.as_tensor(self_energies, dtype=torch.float64)
        self.register_buffer("self_energies", values.detach().clone().double().reshape(-1))

    def forward(
        self, input_: tuple[Tensor, Tensor], cell: Tensor | None = None, pbc: Tensor | None = None
    ) -> SpeciesEnergies:
        """Return energies (B,) plus self energies, float64; ``cell`` and ``pbc`` are accepted and not used."""
        species, energies = input_
        return SpeciesEnergies(species, energies.double() + self.sae(species))

    def sae(self, species: Tensor) -> Tensor:
        """Return the sum of self energies (B,) of species (B, A), float64."""
        total = self.atomic(species).sum(-1)
        if self.fit_intercept:
            total = total + torch.where((species >= 0).any(-1), self.self_energies[-1], 0.0)
        return total

    def atomic(self, species: Tensor) -> Tensor:
        """Return the self energy of each atom (B, A), float64; 0 for ghosts."""
        num_species = len(self.self_energies) - self.fit_intercept
        if not torch.compiler.is_compiling() and species.numel() and _largest(species) >= num_species:
            raise ValueError(f"element index {int(species.max())} has no self energy; there are {num_species}")
        if num_species == 0:
            return torch.zeros(species.shape, dtype=torch.float64, device=species.device)
        return torch.where(species < 0, 0.0, self.self_energies[species.clamp(min=0)])

    def extra_repr(self) -> str:
        return f"self_energies={self.self_energies.tolist()}" + (", fit_intercept=True" if self.fit_intercept else "")


def _largest(species: Tensor) -> int:
    return int(species.max() if species.is_cpu else known.species_on_host(species).max())


class Sequential(nn.Sequential):
    """``torch.nn.Sequential`` that hands ``cell`` and ``pbc`` to every module whose forward takes them.

    Examples
    --------
    >>> import torch
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, SpeciesConverter
    >>> model = Sequential(
    ...     SpeciesConverter(["H", "C", "N", "O"]),
    ...     AEVComputer.like_1x(),
    ...     ANIModel([AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]),
    ...     EnergyShifter([-0.6, -38.1, -54.7, -75.2]),
    ... )
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> model(water, cell=3 * torch.eye(3), pbc=torch.tensor([True, True, True])).energies.shape
    torch.Size([1])
    """

    def forward(self, input_: Any, cell: Tensor | None = None, pbc: Tensor | None = None) -> Any:
        for module in self:
            input_ = module(input_, cell=cell, pbc=pbc) if _takes_cell(module) else module(input_)
        return input_


def _takes_cell(module: nn.Module) -> bool:
    """Whether ``forward`` has an argument of that name; read off its code, which ``torch.compile`` can trace."""
    code = type(module).forward.__code__
    return "cell" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
