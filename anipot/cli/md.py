"""``anipot md``: molecular dynamics through ASE, which a killed run can resume."""

from __future__ import annotations

import argparse
import math
import signal
import time
from pathlib import Path
from typing import Any

from anipot.cli import checkpoint
from anipot.cli.common import add_common, check_ending, check_folder, check_frame, load, read_frames
from anipot.cli.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("md", help="molecular dynamics")
    parser.add_argument("file", metavar="FILE", help="the first frame is the start")
    parser.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nve")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--pressure", type=float, default=1.0, help="bar")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--steps", type=int, required=True, help="total number, those before a resume included")
    parser.add_argument("--friction", type=float, default=0.01, help="1/fs, of the Langevin thermostat")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trajectory", required=True, help=".xyz or .extxyz")
    parser.add_argument("--log", help="one line an interval")
    parser.add_argument("--interval", type=int, default=10, help="steps between frames, log lines and checkpoints")
    parser.add_argument("--restart", help="checkpoint (default: the trajectory with .restart.npz)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint, with the same settings")
    again.add_argument("--overwrite", action="store_true", help="replace an earlier trajectory, log and checkpoint")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run to the requested number of steps."""
    import numpy as np

    check_ending(args.trajectory, (".xyz", ".extxyz"))
    if args.interval < 1 or args.steps < 0 or args.timestep <= 0 or args.temperature < 0:
        raise UsageError("md wants --interval >= 1, --steps >= 0, --timestep > 0 and --temperature >= 0")
    args.restart = args.restart or f"{args.trajectory}.restart.npz"
    files = [args.trajectory, *([args.log] if args.log else [])]
    _check_outputs(args, [*files, args.restart])
    model = load(args)
    where, atoms = next(read_frames(args.file, "0"))
    check_frame(where, atoms, model.elements, args.ensemble == "npt")
    atoms.calc = model.ase()
    rng = np.random.default_rng(args.seed)
    state = checkpoint.read(args.restart) if args.resume else None
    if state is None:
        _start(atoms, args, rng, files)
        dynamics = _dynamics(atoms, args, rng)
        return _loop(atoms, dynamics, args, rng, files, 0)
    checkpoint.check(args.restart, state, atoms, _settings(args), args.steps)
    checkpoint.restore_atoms(state, atoms)
    dynamics = _dynamics(atoms, args, rng)
    step = checkpoint.restore(state, dynamics, rng, files)
    return _loop(atoms, dynamics, args, rng, files, step)


def _check_outputs(args: argparse.Namespace, files: list[str]) -> None:
    """Refuse two outputs in one file, the input as an output, and files of an earlier run."""
    paths = [Path(file).resolve() for file in [args.file, *files]]
    for i, file in enumerate(files, 1):
        check_folder(file)
        if paths[i] in paths[:i]:
            raise UsageError(f"{file} is named twice; FILE, --trajectory, --log and --restart must be different files")
        if not (args.resume or args.overwrite) and paths[i].exists():
            raise UsageError(f"{file} exists already; give --resume to go on or --overwrite to replace it")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options that a resume must repeat."""
    names = {"nve": (), "nvt": ("friction",), "npt": ("pressure",)}[args.ensemble]
    return {name: getattr(args, name) for name in ("ensemble", "timestep", "temperature", *names)}


def _start(atoms: Any, args: argparse.Namespace, rng: Any, files: list[str]) -> None:
    from anipot.sampling.dynamics import draw_momenta

    draw_momenta(atoms, args.temperature, rng)
    Path(args.restart).unlink(missing_ok=True)  # it belongs to files that are gone in a moment
    for file in files:
        open(file, "w").close()
    if args.log:
        with open(args.log, "w") as log:
            log.write("# step time_fs E_tot_eV E_pot_eV E_kin_eV T_K density_g_per_cm3 pressure_bar\n")


def _dynamics(atoms: Any, args: argparse.Namespace, rng: Any) -> Any:
    from ase import units

    step = args.timestep * units.fs
    if args.ensemble == "nve":
        from ase.md.verlet import VelocityVerlet

        return VelocityVerlet(atoms, step)
    if args.ensemble == "nvt":
        from ase.md.langevin import Langevin

        return Langevin(
            atoms, step, temperature_K=args.temperature, friction=args.friction / units.fs, rng=rng, fixcm=False
        )
    from ase.md.nose_hoover_chain import IsotropicMTKNPT

    pressure = args.pressure * units.bar
    return IsotropicMTKNPT(atoms, step, args.temperature, pressure, tdamp=100 * step, pdamp=1000 * step)


def _loop(atoms: Any, dynamics: Any, args: argparse.Namespace, rng: Any, files: list[str], step: int) -> int:
    from tqdm import tqdm

    def save(step: int) -> None:
        checkpoint.write(args.restart, atoms, dynamics, rng, files, step, _settings(args))

    # A signal waits for the end of the step, so that a checkpoint never holds half of one.
    stop: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: stop.append(number))
    begin, first = time.perf_counter(), step
    try:
        if step == 0:
            _write(atoms, args, 0)
            save(0)
        with tqdm(total=args.steps, initial=step, unit="step", disable=None) as bar:
            while step < args.steps and not stop:
                dynamics.run(1)
                step += 1
                bar.update()
                if step % args.interval == 0:
                    _write(atoms, args, step)
                if step % args.interval == 0 or step == args.steps or stop:
                    save(step)
                    days = (time.perf_counter() - begin) / 86400
                    bar.set_postfix_str(f"{(step - first) * args.timestep * 1e-6 / days:.3g} ns/day")
        if step == args.steps and step % args.interval:
            _write(atoms, args, step)  # after the checkpoint: a resume cuts this frame, which stands off the interval
    finally:
        signal.signal(signal.SIGINT, previous)
    if stop:
        raise KeyboardInterrupt
    return 0


def _write(atoms: Any, args: argparse.Namespace, step: int) -> None:
    import ase.io
    from ase import units

    atoms.info["step"] = step
    ase.io.write(args.trajectory, atoms, format="extxyz", append=True)
    if not args.log:
        return
    potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
    line = f"{step} {step * args.timestep:.4f} {potential + kinetic:.8f} {potential:.8f} {kinetic:.8f}"
    line += f" {atoms.get_temperature():.3f}"
    if atoms.pbc.all():
        density: float = atoms.get_masses().sum() / atoms.get_volume() * 1e24 * units._amu * 1e3
        pressure = -atoms.get_stress(include_ideal_gas=True)[:3].mean() / units.bar
    else:  # neither is defined, but every line has the columns of the header
        density = pressure = math.nan
    line += f" {density:.6f} {pressure:.3f}"
    with open(args.log, "a") as log:
        log.write(line + "\n")
