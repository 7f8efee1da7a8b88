"""Enthalpies, entropies and free energies through ASE's ``IdealGasThermo`` and ``HarmonicThermo``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any

import numpy as np
from ase import units
from ase.thermochemistry import HarmonicThermo, IdealGasThermo

from anipot.spectroscopy.modes import LOW, NormalModes
from anipot.spectroscopy.symmetry import symmetry_of

LOW_MODES = ("harmonic", "raised", "rrho")


@dataclass(frozen=True)
class Thermochemistry:
    """Energies in eV, the entropy in eV/K, all of one molecule or cell."""

    #: "ideal gas" of free molecules, or "harmonic" where atoms are fixed or periodic and only vibrations count.
    kind: str
    #: K.
    temperature: float
    #: Pa; None for "harmonic".
    pressure: float | None
    potential_energy: float
    zero_point_energy: float
    #: Potential and zero-point energy and what is thermal.
    internal_energy: float
    #: Internal energy + kT; None for "harmonic".
    enthalpy: float | None
    entropy: float
    #: Gibbs free energy of an ideal gas, H − TS; Helmholtz free energy, U − TS, for "harmonic".
    free_energy: float
    #: "monatomic", "linear" or "nonlinear"; None for "harmonic".
    geometry: str | None
    point_group: str | None
    symmetry_number: int | None
    #: How modes below 100 cm⁻¹ were treated.
    low_modes: str

    def __str__(self) -> str:
        terms = {"zero-point energy": self.zero_point_energy, "U": self.internal_energy, "H": self.enthalpy}
        terms |= {"TS": self.temperature * self.entropy, "G" if self.kind == "ideal gas" else "F": self.free_energy}
        where = f"{self.temperature:g} K" + ("" if self.pressure is None else f", {self.pressure:g} Pa")
        rotor = "" if self.geometry is None else f", {self.geometry}, symmetry number {self.symmetry_number}"
        group = "" if self.point_group is None else f" ({self.point_group})"
        lines = [f"{self.kind} at {where}{rotor}{group}"]
        lines += [f"{name:>20s} {value:16.6f} eV" for name, value in terms.items() if value is not None]
        return "\n".join(lines)

    def __repr__(self) -> str:
        energy = f"{'G' if self.kind == 'ideal gas' else 'F'} {self.free_energy:.4f} eV"
        heat = f"TS {self.temperature * self.entropy:.4f} eV"
        return f"Thermochemistry({self.kind} at {self.temperature:g} K, {energy}, {heat})"

    def results(self) -> dict[str, Any]:
        """Return the numbers with their units in the keys."""
        named = {"temperature": "temperature_k", "pressure": "pressure_pa", "entropy": "entropy_ev_per_k"}
        values = asdict(self).items()
        return {named.get(key, f"{key}_ev" if key.endswith(("energy", "enthalpy")) else key): v for key, v in values}


def thermochemistry(
    modes: NormalModes,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    *,
    symmetry_number: int | None = None,
    spin: float = 0.0,
    low_modes: str = "harmonic",
    ignore_imaginary: bool = False,
) -> Thermochemistry:
    """Return the thermochemistry of one system: an ideal gas of rigid rotors where the molecule is free.

    Parameters
    ----------
    modes
        At a minimum.
    temperature, pressure
        K, Pa.
    symmetry_number
        Found by libmsym where it is None.
    spin
        Total electron spin: 0.5 for a doublet, 1 for a triplet.
    low_modes
        What to do with modes below 100 cm⁻¹, whose harmonic entropy goes to infinity: ``"harmonic"`` takes them as they
        are; ``"raised"`` as if they had 100 cm⁻¹ (doi:10.1021/jp205508z); ``"rrho"`` turns the entropy of all modes
        smoothly into that of a rotor towards low frequencies (doi:10.1002/chem.201200497, by ASE's ``RRHOMode`` with
        its 100 cm⁻¹).
    ignore_imaginary
        Leave imaginary modes out, as is done at a transition state.

    Raises
    ------
    ValueError
        If there are imaginary modes, naming them; for a molecule in parts; for values that are not positive; for a
        spin or a symmetry number that cannot be.
    ImportError
        Without pymsym, if a symmetry number is wanted.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> nitrogen = anipot.normal_modes(molecule("N2"), anipot.load(), optimize=True)[0]
    >>> heat = thermochemistry(nitrogen, 298.15)
    >>> heat.point_group, heat.symmetry_number, round(float(heat.entropy / units.kB), 1)
    ('Dinfh', 2, 23.0)
    """
    _check(modes, temperature, pressure, low_modes, ignore_imaginary)
    _check_counts(symmetry_number, spin)
    frequencies = modes.frequencies[modes.frequencies > 0]
    if low_modes == "raised":
        frequencies = np.maximum(frequencies, LOW)
    energies = (frequencies * units.invcm).tolist()
    if modes.atoms.pbc.any() or len(modes.free) < len(modes.atoms):
        return _harmonic(modes, energies, temperature, low_modes)
    geometry: Any = "monatomic" if len(modes.atoms) == 1 else "linear" if modes.is_linear else "nonlinear"
    group = None
    if symmetry_number is None:
        group, symmetry_number = symmetry_of(modes.atoms)
    options: dict[str, Any] = {"potentialenergy": modes.energy, "symmetrynumber": symmetry_number, "spin": spin}
    if "vib_selection" in signature(IdealGasThermo).parameters:  # ASE 3.26 has none, and takes what is given
        options["vib_selection"] = "all"
    ideal = IdealGasThermo(energies, geometry, atoms=modes.atoms, **options)
    enthalpy = ideal.get_enthalpy(temperature, verbose=False)
    entropy = ideal.get_entropy(temperature, pressure, verbose=False)
    if low_modes == "rrho":
        entropy += _rotor_correction(modes, energies, temperature)
    return Thermochemistry(
        kind="ideal gas",
        temperature=temperature,
        pressure=pressure,
        potential_energy=modes.energy,
        zero_point_energy=sum(energies) / 2,
        internal_energy=enthalpy - units.kB * temperature,
        enthalpy=enthalpy,
        entropy=entropy,
        free_energy=enthalpy - temperature * entropy,
        geometry=geometry,
        point_group=group,
        symmetry_number=symmetry_number,
        low_modes=low_modes,
    )


def _check(modes: NormalModes, temperature: float, pressure: float, low_modes: str, ignore_imaginary: bool) -> None:
    if low_modes not in LOW_MODES:
        raise ValueError(f"low_modes must be one of {', '.join(LOW_MODES)}, got {low_modes!r}")
    for name, value in (("temperature", temperature), ("pressure", pressure)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    formula = modes.atoms.get_chemical_formula()
    if len(modes.imaginary) and not ignore_imaginary:
        named = "; ".join(
            f"mode {i}, {-modes.frequencies[i]:.1f}i cm^-1 ({modes.describe(i)})" for i in modes.imaginary
        )
        raise ValueError(
            f"{formula} is no minimum: {named}; relax it along that mode, or leave such modes out "
            "(ignore_imaginary=True) at a transition state"
        )
    if len(modes.parts) > 1 and len(modes.free) == len(modes.atoms):
        raise ValueError(
            f"{formula} falls into {len(modes.parts)} parts that do not feel each other; take them one by one: each "
            "moves and turns on its own"
        )


def _check_counts(symmetry_number: int | None, spin: float) -> None:
    if symmetry_number is not None and not (symmetry_number >= 1 and symmetry_number == int(symmetry_number)):
        raise ValueError(f"symmetry_number must be 1, 2, 3, …, got {symmetry_number}")
    if not (spin >= 0 and float(2 * spin).is_integer()):
        raise ValueError(f"spin must be 0, 0.5, 1, 1.5, …, got {spin}: it is half the number of unpaired electrons")


def _harmonic(modes: NormalModes, energies: Any, temperature: float, low_modes: str) -> Thermochemistry:
    if low_modes == "rrho":
        raise ValueError("low_modes='rrho' is for free molecules, whose moments of inertia it needs")
    harmonic = HarmonicThermo(energies, potentialenergy=modes.energy)
    return Thermochemistry(
        kind="harmonic",
        temperature=temperature,
        pressure=None,
        potential_energy=modes.energy,
        zero_point_energy=sum(energies) / 2,
        internal_energy=harmonic.get_internal_energy(temperature, verbose=False),
        enthalpy=None,
        entropy=harmonic.get_entropy(temperature, verbose=False),
        free_energy=harmonic.get_helmholtz_energy(temperature, verbose=False),
        geometry=None,
        point_group=None,
        symmetry_number=None,
        low_modes=low_modes,
    )


def _rotor_correction(modes: NormalModes, energies: Any, temperature: float) -> float:
    """Return the entropy, eV/K, by which rotors that look like vibrations differ from these."""
    try:
        from ase.thermochemistry import RRHOMode
    except ImportError as error:
        raise ImportError("low_modes='rrho' needs a later ASE: pip install 'ase>=3.28'") from error
    inertia = float(np.mean(modes.atoms.get_moments_of_inertia()))
    total = 0.0
    for energy in energies:
        parts: Any = RRHOMode(energy, inertia, tau=LOW).get_entropy(temperature, contributions=True)
        total += parts[1]["S_vib_damped"] - parts[1]["_S_vib_v"]
    return total
