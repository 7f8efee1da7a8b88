"""Normal modes of one system: numbers, what is to be said about them, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from anipot.spectroscopy.rigid import is_linear
from anipot.units import HARTREE_TO_EV

if TYPE_CHECKING:
    from ase.vibrations import VibrationsData
    from matplotlib.axes import Axes

    from anipot.spectroscopy.broadening import Spectrum
    from anipot.spectroscopy.thermochemistry import Thermochemistry

#: cm⁻¹ below which a mode is most likely a hindered rotation, for which the harmonic picture gives a wrong entropy
#: (doi:10.1002/chem.201200497).
LOW = 100.0
#: An account of a mode names the atoms that have this share of its motion.
SHARE = 0.8


@dataclass(frozen=True, eq=False)
class NormalModes:
    """The m vibrations of a system of n atoms, from the lowest frequency up. ``anipot.normal_modes`` makes it.

    Motions that cost no energy, of the whole system or of parts that stand apart, are not among them: a free molecule
    has 3n − 6 vibrations, a linear one 3n − 5, an atom none.
    """

    #: The geometry, with the masses and constraints that were used.
    atoms: Atoms
    #: Potential energy, eV.
    energy: float
    #: Largest force on an atom that is not fixed, eV/Å: 0 at a stationary point.
    fmax: float
    #: (3n, 3n) Hartree/Å².
    hessian: NDArray[np.float64]
    #: (m,) cm⁻¹; imaginary ones as negative numbers.
    frequencies: NDArray[np.float64]
    #: (m,) u.
    reduced_masses: NDArray[np.float64]
    #: (m,) mDyne/Å.
    force_constants: NDArray[np.float64]
    #: (m, n, 3) displacements of norm 1.
    modes: NDArray[np.float64]
    #: (k,) atoms that are not fixed.
    free: NDArray[np.int64]
    #: Atoms that do not feel those of another part.
    parts: list[NDArray[np.int64]]
    #: (M, m) cm⁻¹: what the members of an ensemble say, along the same modes.
    members: NDArray[np.float64] | None = None
    #: (m,) km/mol.
    intensities: NDArray[np.float64] | None = None
    #: Name of the model.
    model: str = ""

    @cached_property
    def frequencies_std(self) -> NDArray[np.float64] | None:
        """(m,) cm⁻¹: standard deviation over the members (unbiased), or None."""
        return None if self.members is None else self.members.std(axis=0, ddof=1)

    @property
    def imaginary(self) -> NDArray[np.int64]:
        """Indices of modes along which the energy falls: there are none at a minimum, and one at a transition state."""
        return np.flatnonzero(self.frequencies < 0)

    @property
    def low(self) -> NDArray[np.int64]:
        """Indices of real modes below 100 cm⁻¹, which mostly are hindered rotations rather than vibrations."""
        return np.flatnonzero((self.frequencies >= 0) & (self.frequencies < LOW))

    @property
    def is_linear(self) -> bool:
        """Whether the atoms, two or more of them, stand on a line."""
        return is_linear(self.atoms.positions)

    @property
    def zero_point_energy(self) -> float:
        """Half a quantum, hν/2, of each real mode, eV."""
        return float(_zero_point_energy(self.frequencies))

    @property
    def zero_point_energy_std(self) -> float | None:
        """Standard deviation of the zero-point energy over the members, eV, or None."""
        return None if self.members is None else float(_zero_point_energy(self.members).std(ddof=1))

    def describe(self, mode: int) -> str:
        """Return what is to be known about a mode: whether it is imaginary or low, and which atoms move most."""
        share = (self.modes[mode] ** 2).sum(-1)
        order = np.argsort(-share)
        needed = int(np.searchsorted(np.cumsum(share[order]), SHARE * share.sum()))
        moving_atoms = np.flatnonzero(share > 0.99 * share[order[needed]])  # with those that are alike by symmetry
        names = [f"{self.atoms.symbols[i]}{i}" for i in moving_atoms]
        moving = f"{', '.join(names[:6])}{', …' if len(names) > 6 else ''}"
        kind = "imaginary: " if mode in self.imaginary else "low, a hindered rotation? " if mode in self.low else ""
        return f"{kind}{moving}"

    def table(self) -> str:
        """Return the modes as a table, one a line; atoms are counted from 0."""
        columns = ["mode", "cm^-1"]
        columns += ["±"] * (self.members is not None) + ["u", "mDyne/Å"] + ["km/mol"] * (self.intensities is not None)
        lines = ["".join(f"{name:>10s}" for name in columns) + "  moving"]
        for i, frequency in enumerate(self.frequencies):
            values = [f"{i:10d}", f"{-frequency:9.1f}i" if frequency < 0 else f"{frequency:10.1f}"]
            values += [f"{self.frequencies_std[i]:10.1f}"] if self.frequencies_std is not None else []
            values += [f"{self.reduced_masses[i]:10.3f}", f"{self.force_constants[i]:10.3f}"]
            values += [f"{self.intensities[i]:10.2f}"] if self.intensities is not None else []
            lines.append("".join(values) + f"  {self.describe(i)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        zpe = self.zero_point_energy
        head = f"{self.atoms.get_chemical_formula()}: {len(self.frequencies)} modes, zero-point energy {zpe:.4f} eV"
        return f"{head}\n{self.table()}"

    def __repr__(self) -> str:
        span = f", {self.frequencies[0]:.1f} to {self.frequencies[-1]:.1f} cm^-1" if len(self.frequencies) else ""
        bad = f", {len(self.imaginary)} imaginary" if len(self.imaginary) else ""
        return f"NormalModes({self.atoms.get_chemical_formula()}, {len(self.frequencies)} modes{span}{bad})"

    def to_ase(self) -> VibrationsData:
        """Return the Hessian as ASE's ``VibrationsData``, which knows the masses and which atoms are free.

        ASE leaves translations and rotations in, at frequencies near 0.
        """
        from ase.vibrations import VibrationsData

        rows = (3 * self.free[:, None] + np.arange(3)).ravel()
        hessian = self.hessian[np.ix_(rows, rows)] * HARTREE_TO_EV
        atoms = self.atoms.copy()
        atoms.set_constraint()  # or ASE would take them out a second time
        return VibrationsData.from_2d(atoms, hessian, indices=self.free.tolist())

    def spectrum(
        self, width: float = 10.0, shape: str = "lorentzian", grid: NDArray[np.float64] | None = None
    ) -> Spectrum:
        """Return the infrared spectrum, or without intensities the density of modes.

        Parameters
        ----------
        width
            cm⁻¹, full width of a line at half its height.
        shape
            ``"lorentzian"`` or ``"gaussian"``.
        grid
            (P,) cm⁻¹ where to compute the curve; every cm⁻¹ by default.
        """
        from anipot.spectroscopy.broadening import spectrum

        return spectrum(self.frequencies, self.intensities, width, shape, grid, self.frequencies_std)

    def plot(self, ax: Axes | None = None, width: float = 10.0, shape: str = "lorentzian") -> Axes:
        """Draw the spectrum, its sticks and their error bars; needs matplotlib."""
        ax = self.spectrum(width, shape).plot(ax)
        ax.set_title(f"{self.atoms.get_chemical_formula()}, {self.model or 'model'}, harmonic")
        return ax

    def animate(self, mode: int, path: str | Path | None = None, **options: Any) -> list[Atoms]:
        """Return frames of one swing along a mode, and write them as extended XYZ where a ``path`` is given."""
        from anipot.spectroscopy.animation import animated, write_animation

        if path is not None:
            write_animation(path, self, mode, **options)
        return animated(self, mode, **options)

    def view(self, mode: int, **options: Any) -> Any:
        """Return a view of a mode that moves in a notebook; needs py3Dmol."""
        from anipot.spectroscopy.animation import viewed

        return viewed(self, mode, **options)

    def thermochemistry(
        self, temperature: float = 298.15, pressure: float = 101325.0, **options: Any
    ) -> Thermochemistry:
        """Return enthalpy, entropy and free energy; see ``anipot.spectroscopy.thermochemistry``."""
        from anipot.spectroscopy.thermochemistry import thermochemistry

        return thermochemistry(self, temperature, pressure, **options)

    def results(self) -> dict[str, Any]:
        """Return all numbers, with their units in the keys, as they are written to JSON."""
        values: dict[str, Any] = {
            "formula": self.atoms.get_chemical_formula(),
            "model": self.model,
            "numbers": self.atoms.numbers,
            "positions_angstrom": self.atoms.positions,
            "masses_u": self.atoms.get_masses(),
            "energy_ev": self.energy,
            "fmax_ev_per_angstrom": self.fmax,
            "frequencies_per_cm": self.frequencies,
            "reduced_masses_u": self.reduced_masses,
            "force_constants_mdyne_per_angstrom": self.force_constants,
            "modes": self.modes,
            "moving": [self.describe(i) for i in range(len(self.frequencies))],
            "imaginary_modes": self.imaginary,
            "low_modes": self.low,
            "linear": self.is_linear,
            "parts": self.parts,
            "fixed_atoms": np.setdiff1d(np.arange(len(self.atoms)), self.free),
            "zero_point_energy_ev": self.zero_point_energy,
            "zero_point_energy_kcal_per_mol": self.zero_point_energy / (units.kcal / units.mol),
        }
        if self.members is not None:
            values["frequencies_std_per_cm"] = self.frequencies_std
            values["frequencies_of_members_per_cm"] = self.members
            values["zero_point_energy_std_ev"] = self.zero_point_energy_std
        if self.intensities is not None:
            values["intensities_km_per_mol"] = self.intensities
        return values


def _zero_point_energy(frequencies: NDArray[np.float64]) -> Any:
    return 0.5 * np.clip(frequencies, 0, None).sum(-1) * units.invcm
