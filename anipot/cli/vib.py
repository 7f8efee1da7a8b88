"""``anipot vib``: normal modes, thermochemistry and spectra of molecules."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from anipot.cli.common import (
    Place,
    add_common,
    add_folder,
    check_ending,
    check_frame,
    load,
    open_folder,
    read_frames,
    told_warnings,
    write_atomically,
)
from anipot.cli.errors import RunError, UsageError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("vib", help="frequencies, normal modes, thermochemistry and spectra")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("-o", "--output", help=".json, a copy of results.json")
    parser.add_argument("--index", default="0", help="which frames (default: the first; : for all)")
    parser.add_argument("--opt", action="store_true", help="relax first, to 0.001 eV/Å")
    parser.add_argument("--members", action="store_true", help="an error bar on each frequency, by the ensemble")
    parser.add_argument("--most-common", action="store_true", help="masses of the most common isotopes")
    mass = "mass of an atom, counted from 0, such as 1=2.0141; may be given again"
    parser.add_argument("--mass", action="append", default=[], metavar="ATOM=U", help=mass)
    parser.add_argument("--fix", metavar="ATOMS", help="atoms that do not move, such as 0,1,5")
    parser.add_argument("--temperature", type=float, default=298.15, help="K (default: 298.15)")
    parser.add_argument("--pressure", type=float, default=101325.0, help="Pa (default: 101325)")
    parser.add_argument("--spin", type=float, default=0.0, help="total electron spin: 0.5 for a doublet (default: 0)")
    parser.add_argument("--symmetry-number", type=int, help="found by default, with pymsym")
    parser.add_argument(
        "--low-modes", choices=("harmonic", "raised", "rrho"), default="harmonic", help="below 100 cm⁻¹"
    )
    parser.add_argument("--ignore-imaginary", action="store_true", help="in thermochemistry: for transition states")
    parser.add_argument("--width", type=float, default=10.0, help="of lines in the picture, cm⁻¹ (default: 10)")
    add_folder(parser)
    add_common(parser)
    parser.set_defaults(run=run, dtype="float64")  # relaxed tightly, where float32 forces are rough


def run(args: argparse.Namespace) -> int:
    """Print modes and thermochemistry; leave numbers, a picture and moving modes in the folder."""
    from anipot.spectroscopy import normal_modes

    check_ending(args.output, (".json",))
    if not args.width > 0:
        raise UsageError(f"--width is {args.width:g}; expected cm⁻¹ above 0")
    model = load(args)
    places, frames = _frames(args, model)
    folder = open_folder(args)
    with told_warnings(), folder.undone_by_failure():
        try:
            found = normal_modes(frames, model, optimize=args.opt, members=args.members)
        except RuntimeError as error:
            raise RunError(f"{args.file}: {error}") from error
    records = [_report(folder, where, modes, args, len(found) == 1) for where, modes in zip(places, found, strict=True)]
    values = {"model": model.name, "frames": records}
    folder.write_results(values)
    if args.output is not None:
        write_atomically(args.output, lambda path: shutil.copyfile(folder / "results.json", path))
    print(f"more in {folder.path}")
    return 0


def _frames(args: argparse.Namespace, model: Any) -> tuple[list[Place], list[Any]]:
    """Return checked frames with the masses and fixed atoms of the options."""
    from ase.constraints import FixAtoms

    from anipot.spectroscopy.systems import set_masses

    places, frames = [], []
    for where, atoms in read_frames(args.file, args.index):
        check_frame(where, atoms, model.elements)
        try:
            set_masses(atoms, "most_common" if args.most_common else None)
            set_masses(atoms, dict(_mass(text) for text in args.mass))
        except ValueError as error:
            raise UsageError(f"{where}: {error}") from error
        if args.fix is not None:
            fixed = _atoms(args.fix)
            if bad := [i for i in fixed if not 0 <= i < len(atoms)]:
                raise UsageError(f"--fix names atom {bad[0]}, but {where} has {len(atoms)}, 0 to {len(atoms) - 1}")
            atoms.set_constraint(FixAtoms(fixed))
        places.append(where)
        frames.append(atoms)
    return places, frames


def _mass(text: str) -> tuple[int, float]:
    atom, _, mass = text.partition("=")
    try:
        return int(atom), float(mass)
    except ValueError as error:
        raise UsageError(f"--mass is {text!r}; expected ATOM=U, such as 1=2.0141") from error


def _atoms(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--fix is {text!r}; expected numbers of atoms, such as 0,1,5") from error


def _report(folder: Any, where: Place, modes: Any, args: argparse.Namespace, alone: bool) -> dict[str, Any]:
    """Print one system, write its files, and return its record."""
    from anipot.spectroscopy.files import write_modes

    name = "" if alone else f"frame_{where.frame}_"
    print(f"{where}: {modes}")
    values = {"file": where.file, "frame": where.frame, **modes.results()}
    values["thermochemistry"] = _thermochemistry(modes, args)
    write_modes(folder, modes, name, args.width)
    return values


def _thermochemistry(modes: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Print and return thermochemistry, or why there is none."""
    options = {
        "symmetry_number": args.symmetry_number,
        "spin": args.spin,
        "low_modes": args.low_modes,
        "ignore_imaginary": args.ignore_imaginary,
    }
    try:
        found = modes.thermochemistry(args.temperature, args.pressure, **options)
    except (ImportError, ValueError) as error:
        print(f"no thermochemistry: {error}")
        return {"error": str(error)}
    print(found)
    return found.results()
