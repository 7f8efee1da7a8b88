"""``anipot export``: from the folder of a run to a folder for the zoo."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("export", help="write a trained model with a card for the zoo", description=__doc__)
    parser.add_argument("folder", metavar="RUN", help="folder of a finished run")
    parser.add_argument("target", metavar="FOLDER", help="that is made")
    parser.add_argument("--name", help="of the model")
    parser.add_argument("--level-of-theory", help="of the labels, such as wB97X/6-31G(d)")
    parser.add_argument("--citation", help="what users of the model should cite")
    parser.add_argument("--doi", help="of the same")
    parser.add_argument("--license", help="of the weights")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder and print its name."""
    from anipot.training.export import FACTS, export

    facts = {name: value for name in FACTS if (value := getattr(args, name)) is not None}
    print(export(args.folder, args.target, args.name, facts))
    return 0
