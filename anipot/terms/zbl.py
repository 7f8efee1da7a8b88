"""Screened repulsion of nuclei, which a network cannot learn from molecules near their minima."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anipot.elements import atomic_numbers
from anipot.environments import Environments
from anipot.exact import ExactBuffers
from anipot.terms.pairwise import near_pairs, shared_by_atoms
from anipot.units import BOHR_TO_ANGSTROM, COULOMB

#: The universal screening function of Ziegler, Biersack and Littmark.
COEFFICIENTS = (0.18175, 0.50986, 0.28022, 0.02817)
EXPONENTS = (3.19980, 0.94229, 0.40290, 0.20162)
POWER = 0.23
#: Å; 0.8854 a₀.
LENGTH = 0.8854 * BOHR_TO_ANGSTROM


class ZBL(ExactBuffers):
    r"""Universal screened repulsion of nuclei (Ziegler, Biersack, Littmark, doi:10.1007/978-1-4615-8103-1_3).

        E = ½ Σ_{i≠j} k Z_i Z_j / r_ij φ(r_ij / a_ij) s(r_ij)
        a_ij = 0.8854 a₀ / (Z_i^0.23 + Z_j^0.23)
        φ(x) = 0.18175 exp(−3.1998 x) + 0.50986 exp(−0.94229 x) + 0.28022 exp(−0.4029 x) + 0.02817 exp(−0.20162 x)

    with k = e²/(4πε₀). It is switched off between ``inner`` and ``cutoff`` by the polynomial whose first and second
    derivatives vanish at both ends (TorchANI, MACE and GROMACS have the like; LAMMPS adds a polynomial instead):

        s(u) = 1 − 10 u³ + 15 u⁴ − 6 u⁵,  u = (r − inner) / (cutoff − inner)

    or by a ``cutoff_function`` over the whole range, as in SchNetPack.

    Parameters
    ----------
    elements
        Symbols, in the order of the element indices.
    cutoff
        Å; beyond it the energy is 0.
    inner
        Å; up to here nothing is switched. Without effect where a ``cutoff_function`` is given.
    cutoff_function
        A module that takes (distances, cutoff), such as ``CosineCutoff()``.
    trainable
        Whether the power, the length, the exponents and the coefficients are parameters. They stay positive
        (through a softplus) and the coefficients add up to 1, whatever an optimizer does to them (PhysNet,
        doi:10.1021/acs.jctc.9b00181, and SchNetPack).

    Raises
    ------
    ValueError
        For an unknown element, or unless 0 ≤ inner < cutoff.

    Notes
    -----
    Train the network with this term in place: it also acts at the lengths of bonds.

    Examples
    --------
    >>> zbl = ZBL(["H", "C", "N", "O"], cutoff=2.0, inner=1.0)
    >>> hydrogen, carbon = zbl.numbers[[0, 0]], zbl.numbers[[1, 1]]
    >>> zbl.pair_energies(hydrogen, carbon, torch.tensor([0.5, 2.0]).double())
    tensor([0.9687, 0.0000], dtype=torch.float64)
    """

    #: Vectors of pairs are all it looks at.
    needs_positions = False
    needs_features = False

    numbers: Tensor
    power: Tensor
    length: Tensor
    exponents: Tensor
    coefficients: Tensor

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 2.0,
        inner: float = 1.0,
        cutoff_function: nn.Module | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.elements = tuple(elements)
        self.cutoff, self.inner = float(cutoff), float(inner)
        if cutoff_function is None and not 0 <= self.inner < self.cutoff < float("inf"):
            raise ValueError(f"ZBL needs 0 ≤ inner < cutoff, both in Å, got inner={inner} and cutoff={cutoff}")
        if not 0 < self.cutoff < float("inf"):
            raise ValueError(f"the cutoff of ZBL must be positive and finite, in Å, got {cutoff}")
        self.cutoff_function = cutoff_function
        self.trainable = bool(trainable)
        numbers = torch.tensor(atomic_numbers(self.elements), dtype=torch.float64)
        self.register_buffer("numbers", numbers, persistent=False)
        for name, value in (
            ("power", POWER),
            ("length", LENGTH),
            ("exponents", EXPONENTS),
            ("coefficients", COEFFICIENTS),
        ):
            tensor = torch.tensor(value, dtype=torch.float64)
            if self.trainable:
                setattr(self, name, nn.Parameter(_inverse_softplus(tensor)))
            else:
                self.register_buffer(name, tensor, persistent=False)

    @property
    def num_species(self) -> int:
        """Number of elements."""
        return len(self.elements)

    def constants(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the power, the length (Å), the exponents (4,) and the coefficients (4,), float64."""
        found = (self.power, self.length, self.exponents, self.coefficients)
        if not self.trainable:
            return found
        power, length, exponents, coefficients = (nn.functional.softplus(t.double()) for t in found)
        return power, length, exponents, coefficients / coefficients.sum()

    def atomic_energies(self, environments: Environments) -> Tensor:
        """Return half the repulsion of each atom's pairs (N,), Hartree, float64; 0 for ghosts."""
        center, neighbor, distances = near_pairs(environments.pairs, environments.vectors, self.cutoff)
        numbers = self.numbers[environments.species.clamp(min=0)]  # (N,)
        energies = self.pair_energies(numbers[center], numbers[neighbor], distances)
        return shared_by_atoms(center, energies, len(environments.species))

    def pair_energies(self, z_i: Tensor, z_j: Tensor, distances: Tensor) -> Tensor:
        """Return the repulsion (P,) in Hartree of nuclei with charges (P,) at distances (P,) in Å."""
        power, length, exponents, coefficients = self.constants()
        x = distances * (z_i**power + z_j**power) / length
        screening = (coefficients * torch.exp(-exponents * x[:, None])).sum(-1)
        return COULOMB * z_i * z_j / distances * screening * self._switch(distances)

    def _switch(self, distances: Tensor) -> Tensor:
        if self.cutoff_function is not None:
            inside = distances < self.cutoff
            factors = self.cutoff_function(torch.where(inside, distances, 0.0), self.cutoff)
            return torch.where(inside, factors, 0.0)
        u = ((distances - self.inner) / (self.cutoff - self.inner)).clamp(0, 1)
        return 1 - u**3 * (10 - 15 * u + 6 * u * u)

    def extra_repr(self) -> str:
        switch = f"inner={self.inner}" if self.cutoff_function is None else "cutoff_function as below"
        return f"{', '.join(self.elements)}; cutoff={self.cutoff}, {switch}, trainable={self.trainable}"


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
