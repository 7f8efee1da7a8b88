"""``anipot train``: a potential, or an ensemble, from a file of settings."""

from __future__ import annotations

import argparse
from typing import Any

_HELP = """
Everything goes into one folder (folder=..., by default runs/ and the name of the file). The same command goes on with a
run that was interrupted. Under torchrun, all processes train together. Recipes are in examples/configs.
"""


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("train", help="train a potential", description=__doc__, epilog=_HELP)
    parser.add_argument("config", metavar="CONFIG", help="YAML file, or a training file of NeuroChem (.ipt)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as data.path=my.h5 optimizer.lr=1e-4")
    parser.add_argument("--show", action="store_true", help="print all settings with their values, and do nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train."""
    from anipot.training import needs

    needs("lightning", "torchmetrics", "jsonargparse")
    from anipot.training.reading import read_settings, to_plain

    settings = read_settings(args.config, args.overrides)
    if args.show:
        import yaml

        print(yaml.safe_dump(to_plain(settings), sort_keys=False, allow_unicode=True), end="")
        return 0
    from anipot.training.members import train_all

    train_all(settings)
    return 0
