"""``anipot sp``: single points of many frames."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from typing import Any

from anipot.cli.common import Place, add_common, check_ending, check_frame, load, read_frames, write_atomically
from anipot.cli.errors import UsageError
from anipot.cli.results import print_table, record, write_results

#: Frames that are sorted by size together.
WINDOW = 1024


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("sp", help="energies, forces, stress and Hessians of structures")
    parser.add_argument("files", nargs="+", metavar="FILE", help="anything that ASE reads")
    parser.add_argument("-o", "--output", help=".xyz or .extxyz (eV), .json or .csv (Hartree); a table if not given")
    parser.add_argument("--index", default=":", help="which frames, as in ASE (default: all)")
    parser.add_argument("--max-atoms", type=int, default=4096, help="atoms of a batch, padding included")
    for name in ("forces", "stress", "hessian", "members", "atomic-energies", "properties"):
        parser.add_argument(f"--{name}", action="store_true")
    add_common(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compute every frame and write the results in the order of the input."""
    from tqdm import tqdm

    check_ending(args.output, (".xyz", ".extxyz", ".json", ".csv"))
    if args.hessian and not (args.output or "").lower().endswith(".json"):
        raise UsageError("a Hessian is written to JSON only: give -o with the ending .json")
    if args.max_atoms < 1:
        raise UsageError(f"--max-atoms must be at least 1, got {args.max_atoms}")
    model = load(args)
    total = 0
    for where, atoms in _frames(args):  # all frames are looked at before anything heavy is computed
        check_frame(where, atoms, model.elements, args.stress)
        total += 1
    with tqdm(total=total, unit="frame", disable=None) as bar:
        results = _compute(model, args, bar)
        if args.output is None:
            print_table(results)
        else:
            write_atomically(args.output, lambda path: write_results(path, results))
    return 0


def _frames(args: argparse.Namespace) -> Iterator[tuple[Place, Any]]:
    for file in args.files:
        yield from read_frames(file, args.index)


def _compute(model: Any, args: argparse.Namespace, bar: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    frames = _frames(args)
    while window := list(islice(frames, WINDOW)):
        found: dict[int, dict[str, Any]] = {}
        for batch in batches([len(atoms) for _, atoms in window], args.max_atoms):
            found |= zip(batch, _batch(model, args, [window[i] for i in batch]), strict=True)
            bar.update(len(batch))
        for i, (_, atoms) in enumerate(window):
            yield atoms, found[i]


def batches(sizes: list[int], max_atoms: int) -> Iterator[list[int]]:
    """Yield the indices of frames of similar size, at most ``max_atoms`` a batch, padding included.

    >>> list(batches([3, 9, 3, 8], 9))
    [[0, 2], [3], [1]]
    """
    batch: list[int] = []
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if batch and (len(batch) + 1) * sizes[i] > max_atoms:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _batch(model: Any, args: argparse.Namespace, frames: list[tuple[Place, Any]]) -> list[dict[str, Any]]:
    import torch

    from anipot import pad, single_point

    where = [place for place, _ in frames]
    atoms = [a for _, a in frames]
    molecules = [(torch.tensor(a.numbers, dtype=torch.long), torch.tensor(a.positions)) for a in atoms]
    species, coordinates = pad(molecules)
    cell = torch.stack([torch.tensor(a.cell.array) for a in atoms])
    pbc = torch.stack([torch.tensor(a.pbc) for a in atoms])
    wanted = {
        name: getattr(args, name)
        for name in ("forces", "stress", "hessian", "members", "atomic_energies", "properties")
    }
    inputs = [tensor.to(model.device) for tensor in (species, coordinates, cell, pbc)]
    try:
        result = single_point(model, *inputs, **wanted)
    except ValueError as error:
        if len(frames) > 1:  # find the frame: alone, it is the only one that can be meant
            return [value for frame in frames for value in _batch(model, args, [frame])]
        raise UsageError(f"{where[0]}: {error}") from error
    per_atom = [name for name, head in model.property_heads.items() if getattr(head, "per_atom", False)]
    return [record(where[b], result, b, len(a), per_atom) for b, a in enumerate(atoms)]
