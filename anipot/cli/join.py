"""``anipot join``: put the results of other programs and the structures that were chosen together."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from anipot.cli.common import check_ending, parse_fields
from anipot.cli.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("join", help="join results of other programs to chosen structures")
    parser.add_argument("picked", metavar="PICKED", help="what 'anipot sample' wrote, .h5")
    parser.add_argument("results", metavar="RESULT", nargs="+", help="files that ASE reads, or folders of them")
    parser.add_argument("-o", "--output", required=True, help=".h5")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=KEY [UNIT]",
        help="where results have a quantity, such as 'energies=REF_energy [Hartree]' (default: what ASE reads)",
    )
    parser.add_argument("--pattern", default="*", help="which files in folders may be results, such as '*.out'")
    parser.add_argument("--tolerance", type=float, default=0.01, help="how far an atom may be from its place, Å")
    parser.add_argument("--level-of-theory", help="written into the data set")
    parser.add_argument("--incomplete", action="store_true", help="write what there is")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Join, and say what is missing."""
    from anipot.data.blocks import DataError
    from anipot.data.source import open_source
    from anipot.sampling import join

    check_ending(args.output, (".h5", ".hdf5"))
    fields = parse_fields(args.field)
    facts = {"level_of_theory": args.level_of_theory} if args.level_of_theory else {}
    try:
        report = join(
            open_source(args.picked),
            args.results,
            args.output,
            fields=fields,
            pattern=args.pattern,
            tolerance=args.tolerance,
            incomplete=args.incomplete,
            metadata=facts,
            overwrite=args.overwrite,
        )
    except FileExistsError as error:
        raise UsageError(f"{error} (--overwrite)") from error
    except DataError as error:
        raise UsageError(str(error).replace("incomplete=True", "--incomplete")) from error
    for problem in report.problems:
        print(f"anipot: {problem}", file=sys.stderr)
    for missing in report.missing:
        print(f"anipot: {missing} has no result", file=sys.stderr)
    print(f"{report.joined} structures in {args.output}")
    return 0
