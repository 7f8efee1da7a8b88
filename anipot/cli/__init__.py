"""The ``anipot`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from anipot.cli import md, opt, sp, vib, zoo
from anipot.cli.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 failed, 2 bad usage or input, 130 interrupted."""
    try:
        args = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("anipot: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if getattr(args, "debug", False):
            raise
        print(f"anipot: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (UsageError, ValueError)) else 1


def _parser() -> argparse.ArgumentParser:
    from anipot import __version__

    parser = argparse.ArgumentParser(prog="anipot", description="Energies, forces and dynamics with ANI potentials.")
    parser.add_argument("--version", action="version", version=f"anipot {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (sp, opt, vib, md, zoo):
        module.add_parser(commands)
    info = commands.add_parser("info", help="what is known about a model")
    info.add_argument("model")
    info.set_defaults(run=_info)
    return parser


def _info(args: argparse.Namespace) -> int:
    from anipot.cli.common import load_named

    for key, value in load_named(args.model).info().items():
        print(f"{key}: {value}")
    return 0
