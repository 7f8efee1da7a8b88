"""``anipot label``: compute energies and forces for the structures of a data set."""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path
from typing import Any

from anipot.cli.common import check_ending, load_named
from anipot.cli.errors import RunError, UsageError
from anipot.cli.sample import open_structures


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("label", help="compute labels for a data set")
    parser.add_argument("files", metavar="DATA", nargs="+", help="structures, in any layout that anipot or ASE reads")
    parser.add_argument("-o", "--output", required=True, help=".h5")
    parser.add_argument(
        "--calculator",
        required=True,
        metavar="NAME",
        help="a model (name or path), tblite, a name that ASE knows, or package.module:Class",
    )
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="of the calculator")
    parser.add_argument("--properties", nargs="+", default=["energies", "forces"], metavar="NAME")
    parser.add_argument("--workers", type=int, default=1, help="processes, of a calculator of ASE")
    parser.add_argument("--device", default=None, help="such as cpu or cuda, of a model")
    parser.add_argument("--dtype", choices=("float32", "float64"), default=None, help="of the networks of a model")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    again.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Label the structures; those that fail are listed and kept out, and end in exit code 1."""
    from anipot.sampling import label

    check_ending(args.output, (".h5", ".hdf5"))
    if args.resume and Path(args.output).exists() and not Path(f"{args.output}.partial").exists():
        print(f"{args.output} is complete; there is nothing to resume")
        return 0
    labeller = _labeller(args)
    source = open_structures(args.files)
    try:
        report = label(source, args.output, labeller, resume=args.resume, overwrite=args.overwrite)
    except FileExistsError as error:
        raise UsageError(f"{error} (--resume, --overwrite)") from error
    print(f"{report.labelled} structures in {args.output}")
    if not report.failed:
        return 0
    for reason, count in list(report.reasons.items())[:10]:
        print(f"anipot: {count} failed: {reason}", file=sys.stderr)
    raise RunError(f"{report.failed} structures could not be labelled; {report.failures} lists them")


def _labeller(args: argparse.Namespace) -> Any:
    """Return the labeller that a name means: a calculator of ASE, or one of our models."""
    from anipot.sampling import CalculatorFactory, CalculatorLabeller, PotentialLabeller

    options = dict(_option(text) for text in args.option)
    if args.calculator == "tblite" or ":" in args.calculator or _ase_knows(args.calculator):
        return CalculatorLabeller(CalculatorFactory(args.calculator, options), tuple(args.properties), args.workers)
    if options:
        raise UsageError(f"--option is for calculators of ASE; {args.calculator} is a model")
    return PotentialLabeller(load_named(args.calculator, args.device, args.dtype), tuple(args.properties))


def _ase_knows(name: str) -> bool:
    from ase.calculators.names import names

    return name in names and name != "anipot" and not Path(name).exists()


def _option(text: str) -> tuple[str, Any]:
    """Return name and value of an option; what is no Python literal is text.

    >>> _option("accuracy=0.1"), _option("method=GFN1-xTB")
    (('accuracy', 0.1), ('method', 'GFN1-xTB'))
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"--option is {text!r}; expected KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
