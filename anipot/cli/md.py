"""``anipot md``: molecular dynamics, which a killed run can resume."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from anipot.cli.common import add_common, check_frame, load, open_folder, read_frames
from anipot.cli.errors import RunError, UsageError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("md", help="molecular dynamics")
    parser.add_argument("file", metavar="FILE", help="where to start")
    parser.add_argument("--index", default="0", help="which frame of FILE (default: 0; -1 is the last)")
    parser.add_argument("--keep-momenta", action="store_true", help="start with the momenta of FILE, do not draw any")
    parser.add_argument("--steps", type=int, required=True, help="total number, those before a resume included")
    parser.add_argument("--timestep", type=float, default=0.5, help="fs (default: 0.5)")
    parser.add_argument("--temperature", type=float, default=300.0, help="K (default: 300)")
    parser.add_argument("--ensemble", choices=("nve", "nvt", "npt"), default="nve", help="(default: nve)")
    parser.add_argument("--thermostat", choices=("langevin", "nose-hoover"), default="langevin", help="of nvt")
    parser.add_argument("--friction", type=float, default=0.01, help="1/fs, of the Langevin thermostat (default: 0.01)")
    parser.add_argument("--barostat", choices=("isotropic", "full"), default="isotropic", help="of npt")
    parser.add_argument("--pressure", type=float, default=1.0, help="bar (default: 1)")
    parser.add_argument("--tdamp", type=float, help="fs, time of a Nosé–Hoover chain (default: 100 steps)")
    parser.add_argument("--pdamp", type=float, help="fs, time of the barostat (default: 1000 steps)")
    parser.add_argument("--seed", type=int, default=0, help="of momenta and noise")
    add_outputs(parser)
    add_common(parser)
    parser.set_defaults(run=run)


def add_outputs(parser: Any) -> None:
    """Add what is written, and when to stop."""
    parser.add_argument("--folder", help="where everything is written (default: the stem of FILE with _md)")
    parser.add_argument("--format", choices=("extxyz", "h5md", "both"), default="extxyz", help="of the trajectory")
    parser.add_argument("--interval", type=int, default=10, help="steps between frames and log lines (default: 10)")
    parser.add_argument("--checkpoint-interval", type=int, help="steps between checkpoints (default: about 100)")
    parser.add_argument("--guard-energy", type=float, metavar="RHO", help="threshold of σ/√N of the members, kcal/mol")
    parser.add_argument("--guard-force", type=float, metavar="SIGMA", help="threshold of the spread of a force, eV/Å")
    parser.add_argument("--guard-action", choices=("stop", "save"), default="stop", help="(default: stop)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on from the checkpoint, with the same settings")
    again.add_argument("--overwrite", action="store_true", help="replace what an earlier run left in the folder")


def run(args: argparse.Namespace) -> int:
    """Run to the requested number of steps."""
    from anipot.dynamics import DynamicsError
    from anipot.dynamics.files import write_run

    if args.steps < 0:
        raise UsageError(f"--steps must be 0 or more, got {args.steps}")
    settings, guard = _settings(args), _guard(args)
    model = load(args)
    frames = list(read_frames(args.file, args.index))
    if len(frames) != 1:
        raise UsageError(f"{args.file}: md starts from one frame, but --index {args.index!r} gives {len(frames)}")
    where, atoms = frames[0]
    check_frame(where, atoms, model.elements, settings.ensemble == "npt")
    if args.keep_momenta and not args.resume and not atoms.has("momenta"):
        raise UsageError(f"{where} has no momenta to keep")
    _check(args, atoms, model, settings, guard)
    folder = open_folder(args, args.resume)
    dynamics = _dynamics(args, atoms, model, folder.path, settings, guard)
    begin, first = time.perf_counter(), dynamics.step
    ended = ""
    try:
        dynamics.run(args.steps, progress=True)
        ended = "done"
    except DynamicsError as error:
        ended = str(error)
        raise RunError(ended) from error
    except KeyboardInterrupt:
        ended = f"interrupted at step {dynamics.step}"
        raise
    finally:
        if ended:
            write_run(folder, dynamics, ended, time.perf_counter() - begin, dynamics.step - first)
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from dataclasses import fields

    from anipot.dynamics import Settings

    return Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})


def _guard(args: argparse.Namespace) -> Any:
    from anipot.dynamics import Guard

    if args.guard_energy is None and args.guard_force is None:
        return None
    return Guard(args.guard_energy, args.guard_force, args.guard_action)


def _check(args: argparse.Namespace, atoms: Any, model: Any, settings: Any, guard: Any) -> None:
    """Refuse what can be refused before the folder of an earlier run is deleted."""
    from anipot.dynamics.integrators import check_cell_moves, check_nothing_held
    from anipot.dynamics.run import check_intervals
    from anipot.sampling.committee import check_committee

    check_intervals(args.interval, args.checkpoint_interval)
    if settings.ensemble == "npt":
        check_cell_moves(atoms)
    if settings.kind == ("nvt", "nose-hoover"):
        check_nothing_held(atoms)
    if guard is not None:
        check_committee(model)


def _dynamics(args: argparse.Namespace, atoms: Any, model: Any, path: Any, settings: Any, guard: Any) -> Any:
    from anipot.dynamics import MolecularDynamics

    return MolecularDynamics(
        atoms,
        model,
        path,
        settings,
        interval=args.interval,
        checkpoint_interval=args.checkpoint_interval,
        formats=("extxyz", "h5md") if args.format == "both" else (args.format,),
        guard=guard,
        seed=args.seed,
        keep_momenta=args.keep_momenta,
        resume=args.resume,
        notice=lambda text: print(f"anipot: warning: {text}", file=sys.stderr),
    )
