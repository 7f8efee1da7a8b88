"""The ``anipot`` command."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from anipot.cli import data, doctor, evaluate, export, join, label, md, neb, opt, sample, sp, spectrum, train, vib, zoo
from anipot.cli.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    debug = False
    try:
        args = _parser().parse_args(argv)
        args.argv = sys.argv[1:] if argv is None else argv
        debug = hasattr(args, "debug")
        return int(args.run(args))
    except SystemExit as stop:  # of the parser
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("anipot: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"anipot: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UsageError, ValueError)) else 1


def _parser() -> argparse.ArgumentParser:
    from anipot import __version__

    parser = argparse.ArgumentParser(prog="anipot", description="Energies, forces and dynamics with ANI potentials.")
    parser.add_argument("--version", action="version", version=f"anipot {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    computing = (sp, opt, neb, vib, md, spectrum)
    for module in (*computing, train, evaluate, export, data, sample, label, join, zoo, doctor):
        module.add_parser(commands)
    info = commands.add_parser("info", help="what is known about a model")
    info.add_argument("model", metavar="MODEL", help="name of a model or path of a file")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(run=_info)
    _add_debug(parser)
    return parser


def _add_debug(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug`` to a parser and all below it; without a default, so that the inner do not undo the outer."""
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of errors")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in set(action.choices.values()):
                _add_debug(inner)


def _info(args: argparse.Namespace) -> int:
    import json

    from anipot.cli.common import load_named

    facts = load_named(args.model).info()
    if args.json:
        print(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False))
        return 0
    for key, value in facts.items():
        print(f"{key}: {_line(value)}")
    return 0


def _line(value: object) -> str:
    """Return a fact in one line.

    >>> _line({"dipole": "DipoleMoment", "terms": ["ZBL", "D3"]})
    'dipole = DipoleMoment; terms = ZBL, D3'
    """
    if isinstance(value, dict):
        return "; ".join(f"{key} = {_line(part)}" for key, part in value.items())
    return ", ".join(map(_line, value)) if isinstance(value, list) else "none" if value is None else str(value)
