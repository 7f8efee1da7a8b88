"""One system, one model, one folder: what a chemist asks of them, each in a line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
import torch
from ase import Atoms

from anipot.derivatives import as_potential
from anipot.dynamics import (
    DynamicsSpectrum,
    MolecularDynamics,
    Settings,
    infrared_spectrum,
    power_spectrum,
    read_trajectory,
)
from anipot.dynamics.files import write_spectrum
from anipot.models import load
from anipot.optimization import Optimized, optimize
from anipot.optimization.files import record, write_optimized
from anipot.optimization.inputs import check_frames
from anipot.spectroscopy import NormalModes, Thermochemistry, normal_modes
from anipot.spectroscopy.analysis import FMAX
from anipot.spectroscopy.files import write_modes
from anipot.study.point import Point, point_of
from anipot.study.run import Run, same
from anipot.study.steps import Steps

if TYPE_CHECKING:
    from anipot.interfaces.ase import Calculator

SPECTRA: dict[str, Callable[..., DynamicsSpectrum]] = {"power": power_spectrum, "infrared": infrared_spectrum}


class Study:
    """One system and one model, and the steps that a chemist takes with them.

    Each step begins where the last one left ``atoms``. With a folder, each leaves a numbered folder in it, such as
    ``02_normal_modes``, with the line of Python (``command.txt``), numbers (``results.json``), geometries and pictures:
    the files of ``anipot opt``, ``vib``, ``md`` and ``spectrum``.

    Parameters
    ----------
    system
        ``Atoms``, which are copied, or a file with one structure that ASE reads.
    model
        A ``Potential``, or a name or path for ``anipot.load``.
    folder
        Where to leave files; nowhere by default.
    overwrite
        Whether what an earlier study left there may be deleted.
    device, dtype
        Of a model that is named. Networks are float64 by default, as float32 costs some tenths of cm⁻¹ in frequencies;
        ``torch.float32`` makes dynamics faster.

    Raises
    ------
    ValueError
        For a file with several structures, elements that the model does not know, coordinates that are not finite, and
        a folder to overwrite that holds the file.
    FileExistsError
        For a folder that holds something; see ``WorkFolder``.

    Examples
    --------
    >>> from ase.build import molecule
    >>> study = Study(molecule("H2O"))
    >>> study.optimize()
    Optimized(H2O, converged, ... steps, fmax ... eV/Å)
    >>> study.normal_modes()
    NormalModes(H2O, 3 modes, ... to ... cm^-1)
    """

    #: Where the atoms are now, with the calculator of the model.
    atoms: Atoms

    def __init__(
        self,
        system: Atoms | str | Path,
        model: torch.nn.Module | str = "mini",
        folder: str | Path | None = None,
        *,
        overwrite: bool = False,
        device: str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.model = load(model, device=device, dtype=dtype) if isinstance(model, str) else as_potential(model)
        self.atoms = system.copy() if isinstance(system, Atoms) else _read(system)
        check_frames([self.atoms], self.model, cell=False)
        self.calculator: Calculator = self.model.ase()
        self.atoms.calc = self.calculator
        self._modes: NormalModes | None = None
        self._modes_at = self.atoms.copy()
        self._run: Run | None = None
        name = f"<{self.atoms.get_chemical_formula()}>" if isinstance(system, Atoms) else repr(str(system))
        command = f"study = anipot.Study({name}, {self.model.name!r}, {str(folder)!r})"
        self._steps = Steps(folder, system, command, overwrite)

    def __repr__(self) -> str:
        where = "" if self._steps.path is None else f", in {self._steps.path}"
        return f"Study({self.atoms.get_chemical_formula()}, {self.model.name or 'unnamed model'}{where})"

    def single_point(self) -> Point:
        """Return energy, forces, their spread over the members, and what the model has heads for."""
        point = point_of(self.atoms, self.calculator)
        if folder := self._steps.next("single_point"):
            folder.write_results({"model": self.model.name, **point.results()})
        return point

    def optimize(self, fmax: float = FMAX, **options: Any) -> Optimized:
        """Relax the atoms.

        Parameters
        ----------
        fmax
            eV/Å; 0.001 by default, as normal modes may follow.
        options
            Of ``anipot.optimize``, such as ``cell=True`` or ``steps``.

        Warns
        -----
        UserWarning
            If they did not converge. They are then where the relaxation ended.
        """
        found = optimize(self.atoms, self.model, fmax=fmax, **options)[0]
        self.atoms.set_cell(found.atoms.cell)
        self.atoms.set_positions(found.atoms.positions, apply_constraint=False)
        if not found.converged:
            warnings.warn(f"{self.atoms.get_chemical_formula()} did not converge: {found.why}", stacklevel=2)
        if folder := self._steps.next("optimize", fmax=fmax, **options):
            write_optimized(folder, [found], fmax)
            folder.write_results({"model": self.model.name, **record(found)})
        return found

    def normal_modes(self, **options: Any) -> NormalModes:
        """Return frequencies, modes, and intensities where the model has a dipole; ``print`` shows a table.

        Parameters
        ----------
        options
            Of ``anipot.normal_modes``, such as ``members=True`` for error bars, or ``masses``.

        Warns
        -----
        UserWarning
            If the atoms are at no stationary point.
        """
        self._modes = modes = normal_modes(self.atoms, self.model, **options)[0]
        self.atoms.set_positions(modes.atoms.positions, apply_constraint=False)  # they were relaxed, if asked to
        self._modes_at = self.atoms.copy()
        if folder := self._steps.next("normal_modes", **options):
            write_modes(folder, modes)
            folder.write_results(modes.results())
        return modes

    def thermochemistry(
        self, temperature: float = 298.15, pressure: float = 101325.0, **options: Any
    ) -> Thermochemistry:
        """Return enthalpy, entropy and free energy; ``print`` shows them.

        The normal modes are the last ones, or are computed where the atoms have moved, or got other masses, since.

        Parameters
        ----------
        temperature, pressure
            K, Pa.
        options
            Of ``anipot.spectroscopy.thermochemistry``, such as ``spin`` or ``low_modes``.

        Raises
        ------
        ValueError
            If the atoms are at no minimum, naming the modes.
        """
        if self._modes is None or not same(self._modes_at, self.atoms):
            self.normal_modes()
        assert self._modes is not None
        found = self._modes.thermochemistry(temperature, pressure, **options)
        if folder := self._steps.next("thermochemistry", temperature=temperature, pressure=pressure, **options):
            folder.write_results({"model": self.model.name, **found.results()})
        return found

    def init_md(
        self, temperature: float = 300.0, ensemble: str = "nve", timestep: float = 0.5, **options: Any
    ) -> MolecularDynamics:
        """Set up molecular dynamics from where the atoms are; ``run_md`` runs it.

        Parameters
        ----------
        temperature
            K.
        ensemble
            ``"nve"``, ``"nvt"`` or ``"npt"``.
        timestep
            fs.
        options
            Of ``anipot.dynamics.Settings``, such as ``friction`` or ``pressure``, and of
            ``anipot.dynamics.MolecularDynamics``, such as ``interval``, ``seed``, ``guard``, or ``keep_momenta=True``
            to go on with the momenta of an earlier run.

        Raises
        ------
        ValueError
            For settings that do not fit.
        """
        chosen = {name: options[name] for name in options if name in Settings.__dataclass_fields__}
        settings = Settings(ensemble, temperature, timestep, **chosen)
        told = {"temperature": temperature, "ensemble": ensemble, "timestep": timestep} | options
        folder = self._steps.next("md", "init_md", **told)
        rest = {name: value for name, value in options.items() if name not in chosen}
        path = self._steps.temporary() if folder is None else folder.path
        dynamics = MolecularDynamics(self.atoms, self.model, path, settings, **rest)
        self._run = Run(dynamics, folder)
        return dynamics

    def run_md(self, steps: int, progress: bool = True) -> dict[str, Any]:
        """Run so many steps of the dynamics that ``init_md`` has set up; called again, it goes on.

        Parameters
        ----------
        steps
            More steps, not in total.
        progress
            Whether to show a bar with ns/day, in a terminal.

        Returns
        -------
        dict
            Means and drift over the whole run, with units in the keys.

        Raises
        ------
        ValueError
            Without ``init_md``, or if the atoms have moved since.
        DynamicsError
            When a guard stops the run, or it has exploded.
        """
        if self._run is None or not same(self._run.left, self.atoms):
            raise ValueError("there is no run to go on with from where the atoms are: call init_md first")
        return self._run.go_on(steps, progress)

    def spectrum(self, kind: str = "power", skip: float = 0.0, **options: Any) -> DynamicsSpectrum:
        """Return a spectrum of the last run.

        Parameters
        ----------
        kind
            ``"power"``, of the velocities, or ``"infrared"``, of the dipoles, for which the model needs a dipole head.
        skip
            fs at the start of the run that are left out.
        options
            Of ``anipot.dynamics.power_spectrum`` and ``infrared_spectrum``, such as ``resolution`` (cm⁻¹).

        Raises
        ------
        ValueError
            Without a run, for another kind, and where the run is too short for the resolution.
        """
        if kind not in SPECTRA:
            raise ValueError(f"kind must be one of {', '.join(SPECTRA)}, got {kind!r}")
        if self._run is None:
            raise ValueError("a spectrum needs a run: call init_md and run_md first")
        trajectory = read_trajectory(self._run.trajectory)
        found = SPECTRA[kind](trajectory.after(skip) if skip else trajectory, **options)
        if folder := self._steps.next("spectrum", kind=kind, skip=skip, **options):
            folder.write_results({"model": self.model.name, kind: write_spectrum(folder, found)})
        return found


def _read(file: str | Path) -> Atoms:
    frames = list(ase.io.iread(file, index=":"))
    if len(frames) != 1:
        raise ValueError(f"{file} holds {len(frames)} structures; a study is of one, read it with ase.io.read")
    return frames[0]
