"""``anipot spectrum``: power and infrared spectra of a trajectory."""

from __future__ import annotations

import argparse
from typing import Any

from anipot.cli.common import add_folder, load_named, open_folder, told_warnings
from anipot.cli.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("spectrum", help="power and infrared spectra of a trajectory")
    parser.add_argument("file", metavar="TRAJECTORY", help="what anipot md wrote, or any that ASE reads")
    parser.add_argument(
        "--kind",
        choices=("power", "infrared", "both"),
        help="of velocities, of dipoles, or both (default: power, and infrared where there are dipoles)",
    )
    parser.add_argument("--model", help="computes the dipoles: a model with a dipole head")
    parser.add_argument("--device", help="such as cpu or cuda")
    parser.add_argument("--resolution", type=float, default=10.0, help="cm^-1, width of a sharp line (default: 10)")
    parser.add_argument("--window", default="blackman", help="such as hann, cosine or none (default: blackman)")
    parser.add_argument(
        "--quantum", default="harmonic", help="correction: harmonic (default), standard, schofield, none"
    )
    parser.add_argument("--temperature", type=float, help="K (default: that of the mean kinetic energy)")
    parser.add_argument("--last", type=float, default=4500.0, help="cm^-1, end of the spectrum (default: 4500)")
    parser.add_argument("--skip", type=float, default=0.0, metavar="PS", help="leave out the first PS picoseconds")
    parser.add_argument("--index", default=":", help="which frames, as in ASE")
    parser.add_argument("--frame-time", type=float, metavar="FS", help="fs between frames, where the file tells none")
    frame = parser.add_mutually_exclusive_group()
    frame.add_argument("--internal", action="store_true", default=None, help="turn with the molecule (default: power)")
    frame.add_argument("--lab", dest="internal", action="store_false", help="do not turn (default: infrared)")
    parser.add_argument("--raw", action="store_true", help="leave frequencies as the time step has made them")
    parser.add_argument("--drop-incomplete", action="store_true", help="leave out a last frame that is cut off")
    add_folder(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the spectra."""
    from anipot.dynamics import add_dipoles, read_trajectory
    from anipot.dynamics.files import write_spectrum

    trajectory = read_trajectory(args.file, args.frame_time, args.index, args.drop_incomplete)
    if args.skip:
        trajectory = trajectory.after(args.skip * 1e3)
    if args.model is not None:
        trajectory = add_dipoles(trajectory, load_named(args.model, args.device))
    kinds = _kinds(args.kind, trajectory)
    with told_warnings():
        spectra = {kind: _spectrum(args, kind, trajectory) for kind in kinds}
    folder = open_folder(args)
    facts: dict[str, Any] = {
        "frames": len(trajectory),
        "frame_time_fs": trajectory.interval,
        "duration_ps": trajectory.duration * 1e-3,
    }
    facts |= {"timestep_fs": None if args.raw else trajectory.timestep}
    for kind, spectrum in spectra.items():
        facts[kind] = write_spectrum(folder, spectrum) | {"window": args.window}
        print(f"{kind}: peaks at {', '.join(f'{peak:.1f}' for peak in facts[kind]['peaks_per_cm'])} cm^-1")
    folder.write_results(facts)
    print(f"more in {folder.path}")
    return 0


def _kinds(asked: str | None, trajectory: Any) -> list[str]:
    if asked is None:
        return ["power"] if trajectory.dipoles is None else ["power", "infrared"]
    return ["power", "infrared"] if asked == "both" else [asked]


def _spectrum(args: argparse.Namespace, kind: str, trajectory: Any) -> Any:
    from anipot.dynamics import infrared_spectrum, power_spectrum

    names = ("resolution", "window", "temperature", "last")
    options = {name: getattr(args, name) for name in names} | {"correct_timestep": not args.raw}
    if args.internal is not None:
        options["internal"] = args.internal
    if kind == "power":
        return power_spectrum(trajectory, **options)
    if trajectory.dipoles is None:
        raise UsageError(f"{args.file} has no dipoles; --model names a model with a dipole head that computes them")
    return infrared_spectrum(trajectory, quantum=args.quantum, **options)
