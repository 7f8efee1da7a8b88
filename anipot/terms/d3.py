"""Dispersion: D3 with Becke–Johnson damping, computed by tad-dftd3 (molecules) and s-dftd3 (periodic systems)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module, resources
from typing import Any

import torch
from torch import Tensor, nn

from anipot.elements import atomic_numbers, symbol
from anipot.environments import Environments
from anipot.lattice import complete_cell
from anipot.structures import System
from anipot.terms.pairwise import real_coordinates
from anipot.units import BOHR_TO_ANGSTROM


class D3(nn.Module):
    r"""Dispersion energy D3(BJ) (Grimme et al., doi:10.1063/1.3382344 and doi:10.1002/jcc.21759).

        E = −½ Σ_{i≠j} Σ_{n=6,8} s_n C_n^ij / (r_ij^n + (a1 R0_ij + a2)^n),  R0_ij = √(C8_ij / C6_ij)

    and, where s9 is not 0, s9 times the Axilrod–Teller–Muto energy of triples (zero-damped). C6 depends on the
    coordination numbers of both atoms, so that this is no sum over pairs.

    Parameters
    ----------
    elements
        Symbols, in the order of the element indices; up to Lr.
    method
        Functional or method such as "wB97X", "B97-3c" or "PBE", whose a1, a2, s8 and s6 are taken from the table of
        s-dftd3. "-D3BJ" or "-D3(BJ)" at its end is understood.
    a1, s8, a2, s6, s9
        Damping parameters; a2 in Bohr, all others without unit. Those given win over the table, and a ``method`` is no
        more than a label where a1, s8 and a2 are given.
        s9 is 0 unless given: D3(BJ) of two bodies, as most programs print it. B97-3c is defined with ``s9=1``.

    Attributes
    ----------
    a1, s8, a2, s6, s9
        The parameters in use.

    Raises
    ------
    ModuleNotFoundError
        Without tad-dftd3, and for a periodic system without dftd3.
    ValueError
        For an unknown method (the known ones are named), missing parameters, or an element without D3 parameters.

    Notes
    -----
    Molecules are computed by tad-dftd3 and can be differentiated twice. Periodic systems, slabs and wires are computed
    by s-dftd3 on the CPU, one at a time: forces and stress, but no Hessian. Its energy belongs to the whole cell and is
    given to all atoms alike, whereas tad-dftd3 says what each atom contributes.

    Both leave out pairs beyond 60 Bohr and triples beyond 40 Bohr without switching them off; at these distances a
    pair of carbon atoms has 1e-9 Hartree. Time and memory grow with the square of the atoms of a molecule, with s9
    with the cube.

    Examples
    --------
    >>> D3(["H", "C", "N", "O"], "wB97X")                                        # doctest: +SKIP
    D3(H, C, N, O; wB97X: a1=0.0, s8=0.2641, a2=5.4959, s6=1.0, s9=0.0)
    """

    #: The coordinates themselves are needed; the list of pairs is not.
    needs_positions = True
    needs_features = False
    #: Å; the potential need not search any pairs for it.
    cutoff = 0.0

    numbers: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        method: str | None = None,
        *,
        a1: float | None = None,
        s8: float | None = None,
        a2: float | None = None,
        s6: float | None = None,
        s9: float = 0.0,
    ) -> None:
        super().__init__()
        _library("tad_dftd3")
        self.elements = tuple(elements)
        self.method = method
        given = {name: value for name, value in (("a1", a1), ("s8", s8), ("a2", a2), ("s6", s6)) if value is not None}
        found = {"s6": 1.0} | given
        if not {"a1", "s8", "a2"} <= found.keys():
            if method is None:
                raise ValueError(f"D3 needs a method, or all of a1, s8 and a2; got {given or 'neither'}")
            found = found | _table(method) | given
        self.a1, self.s8, self.a2, self.s6 = (float(found[name]) for name in ("a1", "s8", "a2", "s6"))
        self.s9 = float(s9)
        numbers = torch.tensor(atomic_numbers(self.elements), dtype=torch.long)
        unknown = [element for element, n in zip(self.elements, numbers, strict=True) if n >= _num_elements()]
        if unknown:
            raise ValueError(f"D3 has no parameters for {', '.join(unknown)}; it ends at {symbol(_num_elements() - 1)}")
        # The last entry is looked up by ghosts, which D3 calls 0.
        self.register_buffer("numbers", torch.cat([numbers, numbers.new_zeros(1)]), persistent=False)

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def parameters_in_use(self) -> dict[str, float]:
        """The damping parameters by their names."""
        return {name: getattr(self, name) for name in ("a1", "s8", "a2", "s6", "s9")}

    def atomic_energies(self, environments: Environments) -> Tensor:
        """Return the dispersion energy (N,) by atoms, Hartree, float64; 0 for ghosts.

        Raises
        ------
        ValueError
            Without a system.
        """
        system = environments.whole_system("D3")
        numbers = self.numbers[system.species]  # (B, A)
        coordinates = real_coordinates(system) / BOHR_TO_ANGSTROM
        repeats = numbers.new_zeros(len(numbers), dtype=torch.bool) if system.pbc is None else system.pbc.any(-1)
        energies = coordinates.new_zeros(numbers.shape)
        free = (~repeats & (numbers > 0).any(-1)).nonzero().squeeze(1)
        if len(free):
            energies = energies.index_copy(0, free, self._molecules(numbers[free], coordinates[free]))
        for b in repeats.nonzero().squeeze(1).tolist():
            energies = energies.index_copy(0, free.new_tensor([b]), self._crystal(system, b, numbers, coordinates))
        return energies.reshape(-1)

    def _molecules(self, numbers: Tensor, coordinates: Tensor) -> Tensor:
        """Return (b, A) of molecules padded with 0, given coordinates in Bohr."""
        parameters = {name: coordinates.new_tensor(value) for name, value in self.parameters_in_use.items()}
        return _library("tad_dftd3").dftd3(numbers, coordinates, parameters, ref=_reference(coordinates.device))

    def _crystal(self, system: System, b: int, numbers: Tensor, coordinates: Tensor) -> Tensor:
        """Return (1, A) for the periodic molecule ``b``."""
        real = numbers[b] > 0
        count = int(real.sum())
        if count == 0:
            return coordinates[b : b + 1, :, 0] * 0
        assert system.cell is not None
        assert system.pbc is not None
        # Rows along free axes mean nothing, and must not carry a gradient either.
        cell = torch.where(system.pbc[b, :, None], system.cell[b].double(), 0.0) / BOHR_TO_ANGSTROM
        args = (cell, numbers[b][real], system.pbc[b], self.parameters_in_use, b)
        energy = _Periodic.apply(coordinates[b][real], *args)
        return torch.where(real, energy / count, 0.0)[None]

    def extra_repr(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.parameters_in_use.items())
        return f"{', '.join(self.elements)}; {self.method + ': ' if self.method else ''}{values}"


class _Periodic(torch.autograd.Function):
    """The energy of one periodic system from s-dftd3, all in atomic units, with its first derivatives."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cell: Tensor, numbers: Tensor, pbc: Tensor, parameters: Mapping[str, float], molecule: int
    ) -> Tensor:
        interface = _library("dftd3.interface")
        lattice, inside = _boxed(x.detach(), complete_cell(cell.detach()[None], pbc[None])[0], pbc)
        found = interface.DispersionModel(
            *(t.detach().cpu().numpy() for t in (numbers, inside, lattice, pbc))
        ).get_dispersion(interface.RationalDampingParam(**parameters), grad=True)
        gradient, virial = x.new_tensor(found["gradient"]), x.new_tensor(found["virial"])
        # dE/dε = xᵀ dE/dx + cellᵀ dE/dcell; rows along free axes get nothing, but for rounding
        of_cell = torch.linalg.inv(lattice).T @ (virial - inside.T @ gradient)
        ctx.save_for_backward(x, cell, gradient, torch.where(pbc[:, None], of_cell, 0.0))
        ctx.molecule = molecule
        return x.new_tensor(float(found["energy"]))

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        return *_Gradient.apply(grad[0], *ctx.saved_tensors, ctx.molecule), None, None, None, None


class _Gradient(torch.autograd.Function):
    """The first derivatives, which refuse to be differentiated; they take x and cell only to depend on them."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, cell: Tensor, of_x: Tensor, of_cell: Tensor, molecule: int
    ) -> tuple[Tensor, Tensor]:
        ctx.molecule = molecule
        return grad * of_x, grad * of_cell

    @staticmethod
    def backward(ctx: Any, *grad: Any) -> Any:
        raise NotImplementedError(
            f"molecule {ctx.molecule} is periodic: D3 has forces and stress of periodic systems, but no second "
            "derivatives (s-dftd3 computes none); a Hessian needs a potential without it, or finite differences"
        )


def _boxed(x: Tensor, lattice: Tensor, pbc: Tensor) -> tuple[Tensor, Tensor]:
    """Return a lattice (3, 3) whose rows along free axes enclose all atoms, and coordinates (n, 3) inside them.

    s-dftd3 wraps atoms into the cell along all axes, and would cut a slab or a wire that sticks out of its cell.
    ``complete_cell`` has put unit vectors there, at right angles to all else.
    """
    along = x @ lattice.T  # (n, 3), of which the free axes count
    low, high = along.amin(0), along.amax(0)
    length = torch.where(pbc, 1.0, high - low + 2.0)
    shift = torch.where(pbc, 0.0, 1.0 - low) @ lattice
    return lattice * length[:, None], x + shift


def _library(name: str) -> Any:
    """Import one of the libraries of the extra.

    Raises
    ------
    ModuleNotFoundError
        Saying what to install.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = {"tad_dftd3": "tad-dftd3"}.get(name, "dftd3")
        raise ModuleNotFoundError(f"D3 needs the package {package}: pip install anipot[d3]", name=error.name) from error


@cache
def _reference(device: torch.device) -> Any:
    """Return the table of reference C6 coefficients, read once."""
    return _library("tad_dftd3").reference.Reference(dtype=torch.float64, device=device)


def _num_elements() -> int:
    """Return the first atomic number without parameters."""
    return int(_library("tad_dftd3").defaults.MAX_ELEMENT)


def _table(method: str) -> dict[str, float]:
    """Return the parameters of a method from the table of s-dftd3, which tad-dftd3 carries."""
    lookup = _library("tad_dftd3").param.get_functional_params
    lowered = method.lower().replace("ω", "w")
    names = [lowered] + [lowered.removesuffix(s) for s in ("-d3(bj)", "-d3bj") if lowered.endswith(s)]
    for name in names:
        try:
            found = lookup(name, damping="bj", dtype=torch.float64)
        except (KeyError, ValueError):
            continue
        return {key: float(found[key]) for key in ("a1", "s8", "a2", "s6")}
    raise ValueError(f"D3(BJ) has no parameters for {method!r}; it has them for {', '.join(known_methods())}")


def known_methods() -> list[str]:
    """Return the methods for which there are parameters of D3(BJ), as s-dftd3 spells them."""
    _library("tad_dftd3")
    text = (resources.files("tad_dftd3.param") / "parameters.toml").read_text("utf-8")
    table = tomllib.loads(text)["parameter"]
    return sorted(name for name, entry in table.items() if "bj" in entry.get("d3", {}))
