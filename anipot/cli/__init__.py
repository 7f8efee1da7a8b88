"""The ``anipot`` command."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from anipot.cli import doctor, md, opt, sp, vib, zoo
from anipot.cli.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    debug = False
    try:
        args = _parser().parse_args(argv)
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
    for module in (sp, opt, vib, md, zoo, doctor):
        module.add_parser(commands)
    info = commands.add_parser("info", help="what is known about a model")
    info.add_argument("model")
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
    from anipot.cli.common import load_named

    for key, value in load_named(args.model).info().items():
        print(f"{key}: {value}")
    return 0
