"""Data sets: one view on the files of this field, checks, splits, batches and downloads."""

from anipot.data.batches import Batches
from anipot.data.blocks import Block, DataError, Group, Source
from anipot.data.dataset import AtomsDataset
from anipot.data.packed import Batch
from anipot.data.quantities import QUANTITIES, Field, Quantity

__all__ = [
    "QUANTITIES",
    "AtomsDataset",
    "Batch",
    "Batches",
    "Block",
    "DataError",
    "Field",
    "Group",
    "Quantity",
    "Source",
]
