"""The ASE calculator. eV, eV/Å and eV/Å³, as ASE has them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import Hartree
from torch import Tensor

from anipot.derivatives import Ask, SinglePoint, as_potential, evaluate, evaluate_natively
from anipot.engine import Engine
from anipot.lattice import volume
from anipot.neighbors import VerletList
from anipot.structures import System, check_charge

#: Partial charges on atoms are rounded; only a sum beyond this (e) is a charged system.
CHARGED = 0.5
#: Arrays that ASE compares as well.
_INITIAL = frozenset({"initial_charges", "initial_magmoms"})


class Calculator(AseCalculator):
    """ASE calculator of a potential.

    One calculation gives energy, free_energy, forces and energies, and for a periodic system stress, all of which ASE
    caches; nothing is computed twice. Arrays are numpy float64.

    Parameters
    ----------
    model
        A ``Potential``, or a name or path for ``anipot.load``.
    skin
        Å; in dynamics and optimisations the neighbor list is searched with a cutoff larger by this much and reused
        until an atom, or the cell, has moved too far. It never changes a result.

    Notes
    -----
    The calculator keeps nothing of an ``Atoms`` object between calls but ASE's cache of the last result and the
    neighbor list, both of which are checked against the atoms given: one instance serves many systems, and
    ``NEB(..., allow_shared_calculator=True)`` is fine. It can be pickled and deep-copied.

    A total charge in ``atoms.info["charge"]``, or initial charges that add up to one, is refused.

    What the property heads of the potential say is computed when it is asked for: ``atoms.get_dipole_moment()`` (e·Å)
    and ``atoms.get_charges()`` (e) where there are heads named "dipole" and "charges", others by
    ``calculator.get_property(name, atoms)``.

    Examples
    --------
    >>> import torch
    >>> from ase.build import molecule
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Potential
    >>> networks = [AtomicNetwork((384, 16, 1), CELU(0.1)) for _ in range(4)]
    >>> model = Potential(["H", "C", "N", "O"], AEVComputer.like_1x(), ANIModel(networks), EnergyShifter([0.0] * 4))
    >>> water = molecule("H2O")
    >>> water.calc = model.ase()
    >>> water.get_forces().shape
    (3, 3)
    """

    implemented_properties = ["energy", "free_energy", "forces", "energies", "stress"]  # noqa: RUF012

    def __init__(self, model: torch.nn.Module | str, skin: float = 0.5) -> None:
        super().__init__()
        if isinstance(model, str):
            from anipot.models import load

            model = load(model)
        self.model = as_potential(model)
        if self.model is not model and not self.model.periodic_table_index:
            raise ValueError("this Sequential has no SpeciesConverter, so its elements are unknown; put one in front")
        self.implemented_properties = [*type(self).implemented_properties, *self.model.property_heads]
        self.skin = float(skin)
        self._neighbors = VerletList(self.model.cutoff, self.skin)
        self._engine: Engine | None = None
        self._numbers: tuple[np.ndarray, Tensor] | None = None

    def _get_name(self) -> str:
        return "anipot"

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property; ASE's cache knows nothing of ``atoms.info``, so the charge is looked at here."""
        if atoms is not None:
            check_charge(total_charge(atoms))
        return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last calculation; ASE's own way costs as much as a small molecule."""
        changes = _changes(self.atoms, atoms)
        return super().check_state(atoms, tol) if changes is None else changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute everything there is for ``atoms`` into ``results``."""
        # What ASE's own method does besides copying the atoms (which get_property has done) is to make a directory.
        if atoms is not None and self.check_state(atoms):
            self.atoms = atoms.copy()
        self.results = {}  # nothing stale may survive a calculation that fails
        atoms = self._given(atoms)
        heads = tuple(name for name in self.model.property_heads if name in properties)
        result = self._evaluate(atoms, Ask(atomic_energies=True, stress=_has_stress(atoms), properties=heads))
        energy = float(result.energies) * Hartree
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": _numpy(result.atomic_energies) * Hartree,
            "forces": _numpy(result.forces) * Hartree,
        }
        if result.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(_numpy(result.stress) * Hartree)
        self.results |= {name: _numpy(value) for name, value in (result.properties or {}).items()}

    def get_hessian(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return the Hessian (3N, 3N) in eV/Å²."""
        result = self._evaluate(self._given(atoms), Ask(forces=False, hessian=True))
        return _numpy(result.hessian) * Hartree

    def get_spread(self, atoms: Atoms | None = None) -> dict[str, Any]:
        """Return what the members of the ensemble say, and how much they differ.

        Returns
        -------
        dict
            ``energies_members`` (M,), ``energy_std`` and ``qbc`` (σ/√N) in eV; ``forces_members`` (M, N, 3) and
            ``forces_std`` (N, 3) in eV/Å; for a periodic system ``stress_members`` (M, 6) and ``stress_std`` (6,)
            in eV/Å³. Spreads of a single model are NaN.
        """
        atoms = self._given(atoms)
        spread = self._evaluate(atoms, Ask(members=True, stress=_has_stress(atoms))).members
        if spread is None:
            raise ValueError("the spread was not computed")
        values = {
            "energies_members": spread.energies[:, 0].cpu().numpy() * Hartree,
            "energy_std": float(spread.energies_std) * Hartree,
            "qbc": float(spread.qbc) * Hartree,
            "forces_members": _numpy(spread.forces, molecule_axis=1) * Hartree,
            "forces_std": _numpy(spread.forces_std) * Hartree,
        }
        if spread.stress is not None:
            members = _numpy(spread.stress, molecule_axis=1) * Hartree
            values["stress_members"] = np.array([full_3x3_to_voigt_6_stress(s) for s in members])
            values["stress_std"] = full_3x3_to_voigt_6_stress(_numpy(spread.stress_std) * Hartree)
        return values

    def _given(self, atoms: Atoms | None) -> Atoms:
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("no atoms: pass them, or compute something with this calculator first")
        return atoms

    @torch.inference_mode(False)
    def _evaluate(self, atoms: Atoms, ask: Ask) -> SinglePoint:
        check_charge(total_charge(atoms))
        result = self._evaluate_natively(atoms, ask)
        if result is not None:
            return result
        system = self._system(atoms)
        return evaluate(self.model, system, self._neighbors.find_pairs(system), ask, system.species)

    def _evaluate_natively(self, atoms: Atoms, ask: Ask) -> SinglePoint | None:
        if self._engine is None or self._engine.potential is not self.model:
            self._engine, self._numbers = Engine(self.model), None
            self._neighbors = VerletList(self.model.cutoff, self.skin)
        if self.model.device.type != "cpu" and (ask.hessian or ask.properties or len(self.model.terms)):
            return None  # more than the engine computes: on the device from the beginning
        positions = torch.from_numpy(np.require(atoms.positions, np.float64, ["C", "W"]))[None]
        cell = pbc = None
        if atoms.pbc.any():
            cell, pbc = torch.from_numpy(atoms.cell.array), torch.from_numpy(atoms.pbc)
        species = self._species(atoms.numbers)
        return evaluate_natively(self._engine, species, positions, cell, pbc, ask, self.skin, transfer=True)

    def _species(self, numbers: np.ndarray) -> Tensor:
        """Return the species (1, A) on the CPU; the same tensor as long as the atoms are the same."""
        if self._numbers is None or not np.array_equal(self._numbers[0], numbers):
            species = torch.as_tensor(numbers, dtype=torch.long)[None]
            if not self.model.periodic_table_index:
                converter = self.model.converter
                species = converter.convert(species.to(converter.index_of.device)).cpu()
            self._numbers = numbers.copy(), species
        return self._numbers[1]

    def _system(self, atoms: Atoms) -> System:
        device = self.model.device
        numbers = torch.as_tensor(atoms.numbers, dtype=torch.long, device=device)[None]
        species = numbers if self.model.periodic_table_index else self.model.converter.convert(numbers)
        coordinates = torch.tensor(atoms.positions, dtype=torch.float64, device=device)[None]
        if not atoms.pbc.any():
            return self.model.system(species, coordinates, None, None)
        cell = torch.tensor(atoms.cell.array, dtype=torch.float64, device=device)
        return self.model.system(species, coordinates, cell, torch.tensor(atoms.pbc, device=device))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_neighbors": VerletList(self.model.cutoff, self.skin), "_engine": None}


def register() -> None:
    """Let ``ase.calculators.calculator.get_calculator_class("anipot")`` find the calculator."""
    from ase.calculators.calculator import external_calculators, register_calculator_class

    if "anipot" not in external_calculators:
        register_calculator_class("anipot", Calculator)


register()


def _changes(one: Atoms | None, other: Atoms) -> list[str] | None:
    """Return what differs between two plain systems, to the last bit; None for what takes a longer look."""
    if one is None or len(one) != len(other) or not all(_INITIAL.isdisjoint(a.arrays) for a in (one, other)):
        return None
    pairs = {
        "positions": (one.positions, other.positions),
        "numbers": (one.numbers, other.numbers),
        "cell": (one.cell.array, other.cell.array),
        "pbc": (one.pbc, other.pbc),
    }
    return [name for name, (a, b) in pairs.items() if a.tobytes() != b.tobytes()]


def _has_stress(atoms: Atoms) -> bool:
    """Whether a stress is defined: something repeats, and the cell has a volume."""
    return bool(atoms.pbc.any()) and _has_volume(atoms.cell.array.tobytes())


@lru_cache(maxsize=64)
def _has_volume(cell: bytes) -> bool:
    """Whether a cell has a volume, by the numbers that a stress is divided by; torch takes its time to say so."""
    return float(volume(torch.tensor(np.frombuffer(cell).reshape(3, 3)))) > 0


def total_charge(atoms: Atoms) -> float:
    if "charge" in atoms.info:
        charge = atoms.info["charge"]
        try:
            return float(charge)
        except (TypeError, ValueError):
            raise ValueError(f'atoms.info["charge"] must be a number, got {charge!r}') from None
    total = float(atoms.get_initial_charges().sum()) if atoms.has("initial_charges") else 0.0
    return total if abs(total) > CHARGED else 0.0


def _numpy(values: Tensor | None, molecule_axis: int = 0) -> np.ndarray:
    """Return the values of the only molecule of a batch, float64."""
    if values is None:
        raise ValueError("this value was not computed")
    return values.select(molecule_axis, 0).double().cpu().numpy()
