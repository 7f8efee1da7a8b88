"""Data sets: one view on the files of this field, checks, splits, batches and downloads."""

from anipot.data.batches import Batches
from anipot.data.blocks import Block, DataError, Group, Source
from anipot.data.checks import BadRecords
from anipot.data.dataset import AtomsDataset
from anipot.data.dataset import open_dataset as open
from anipot.data.packed import Batch
from anipot.data.published import load
from anipot.data.quantities import QUANTITIES, Field, Quantity
from anipot.data.split_files import read_split, write_split
from anipot.data.transforms import (
    Keep,
    MaskLabels,
    RemoveOffset,
    Rename,
    SubtractBaseline,
    SubtractSelfEnergies,
)

__all__ = [
    "QUANTITIES",
    "AtomsDataset",
    "BadRecords",
    "Batch",
    "Batches",
    "Block",
    "DataError",
    "Field",
    "Group",
    "Keep",
    "MaskLabels",
    "Quantity",
    "RemoveOffset",
    "Rename",
    "Source",
    "SubtractBaseline",
    "SubtractSelfEnergies",
    "load",
    "open",
    "read_split",
    "write_split",
]
