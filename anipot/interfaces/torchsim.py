"""A potential for TorchSim, which runs many systems and replicas at once. eV, eV/Å and eV/Å³, as TorchSim has them.

TorchSim (doi:10.1088/3050-287X/ae1799) brings integrators, optimizers and trajectories. It comes with
``pip install anipot[torchsim]`` and needs Python 3.12 or later.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anipot.derivatives import as_potential, single_point
from anipot.models import potential_of
from anipot.structures import check_charge
from anipot.units import HARTREE_TO_EV

try:
    from torch_sim.models.interface import ModelInterface
except ImportError as error:
    _reason: ImportError | None = error

    class ModelInterface(torch.nn.Module):  # type: ignore[no-redef]
        """Stands in where TorchSim is missing."""
else:
    _reason = None


class TorchSimModel(ModelInterface):
    """A potential as TorchSim wants it: energies, forces and stress of all systems of a ``SimState`` in one call.

    Parameters
    ----------
    model
        A ``Potential``, or a name or path for ``anipot.load``. It computes on its own device, where states must be too.
    dtype
        Of states and results. The networks keep their own: single precision of a total energy of 10 000 eV would be
        1 meV, therefore float64 is the default.
    compute_forces, compute_stress
        What is computed besides energies; both can be set later. The stress of a state without periodic axes is 0.

    Raises
    ------
    ImportError
        Without TorchSim.
    ValueError
        For a system that the potential cannot compute, such as one with unknown elements or a charge.

    Examples
    --------
    >>> import torch_sim                                                 # doctest: +SKIP
    >>> from ase.build import molecule
    >>> model = TorchSimModel("mini")                                    # doctest: +SKIP
    >>> systems = [molecule("CH3CH2OH"), molecule("H2O")] * 50           # 100 systems of two sizes
    >>> final = torch_sim.integrate(system=systems, model=model, integrator=torch_sim.Integrator.nvt_langevin,
    ...     n_steps=1000, timestep=0.0005, temperature=300)              # doctest: +SKIP
    """

    def __init__(
        self,
        model: torch.nn.Module | str,
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
    ) -> None:
        if _reason is not None:
            raise ImportError("this needs TorchSim: pip install anipot[torchsim], with Python 3.12") from _reason
        super().__init__()
        self.model = potential_of(model)
        self._dtype, self._device = dtype, self.model.device
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._memory_scales_with = "n_atoms_x_density"

    @property
    def compute_forces(self) -> bool:
        """Whether forces are computed."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = value

    @property
    def compute_stress(self) -> bool:
        """Whether stress is computed."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = value

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return energies (S,), and where asked for forces (N, 3) and stress (S, 3, 3), of the S systems of a state."""
        charge = getattr(state, "charge", None)
        if charge is not None:
            for value in charge.tolist():
                check_charge(value)
        found = evaluate_systems(
            self.model,
            state.atomic_numbers,
            state.positions,
            state.system_idx,
            state.row_vector_cell,
            state.pbc,
            forces=self._compute_forces,
            stress=self._compute_stress,
        )
        return {name: value.to(self._dtype) for name, value in found.items()}


@torch.inference_mode(False)
def evaluate_systems(
    model: torch.nn.Module,
    atomic_numbers: Tensor,
    positions: Tensor,
    system_idx: Tensor,
    cell: Tensor,
    pbc: Tensor,
    *,
    forces: bool = True,
    stress: bool = False,
) -> dict[str, Tensor]:
    """Return what a potential computes for systems that stand one after the other in flat tensors.

    Parameters
    ----------
    model
        A ``Potential``.
    atomic_numbers, positions, system_idx
        (N,), (N, 3) Å, and (N,) in rising order: which of the S systems an atom belongs to.
    cell, pbc
        (S, 3, 3) Å, rows are the lattice vectors; (3,) bool.
    forces, stress
        What to compute.

    Returns
    -------
    dict
        ``energy`` (S,) eV, ``forces`` (N, 3) eV/Å, ``stress`` (S, 3, 3) eV/Å³; float64, without a graph.

    Examples
    --------
    >>> import anipot
    >>> numbers, x = torch.tensor([8, 1, 1, 1, 1]), torch.rand(5, 3) * 3
    >>> index, free = torch.tensor([0, 0, 0, 1, 1]), torch.zeros(3, dtype=torch.bool)
    >>> evaluate_systems(anipot.load(), numbers, x, index, torch.zeros(2, 3, 3), free)["energy"].shape
    torch.Size([2])
    """
    potential = as_potential(model)
    counts = torch.bincount(system_idx, minlength=len(cell))
    first = counts.cumsum(0) - counts
    column = torch.arange(len(system_idx), device=system_idx.device) - first[system_idx]
    shape = len(counts), int(counts.max())
    species = torch.full(shape, -1, dtype=torch.long, device=positions.device)
    numbers = atomic_numbers.long()
    species[system_idx, column] = numbers if potential.periodic_table_index else potential.converter.convert(numbers)
    coordinates = torch.zeros(*shape, 3, dtype=torch.float64, device=positions.device)
    coordinates[system_idx, column] = positions.detach().double()
    periodic = bool(pbc.any())
    cells = cell.detach().double() if periodic else None
    axes = pbc.to(torch.bool) if periodic else None
    result = single_point(potential, species, coordinates, cells, axes, forces=forces, stress=stress and periodic)
    found = {"energy": result.energies * HARTREE_TO_EV}
    if result.forces is not None:
        found["forces"] = result.forces[system_idx, column].double() * HARTREE_TO_EV
    if stress:
        none = torch.zeros(len(counts), 3, 3, dtype=torch.float64, device=positions.device)
        found["stress"] = none if result.stress is None else result.stress.double() * HARTREE_TO_EV
    return {name: value.detach() for name, value in found.items()}
