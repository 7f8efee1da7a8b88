"""Neighbor search: no gradients, integers only."""

from anipot.neighbors.brute_force import brute_force
from anipot.neighbors.cell_list import cell_list
from anipot.neighbors.pairs import Pairs, check_distances, checked_displacements, displacements, gradient_by_coordinates
from anipot.neighbors.search import find_pairs, neighborhoods
from anipot.neighbors.triples import triples
from anipot.neighbors.verlet import VerletList

__all__ = [
    "Pairs",
    "VerletList",
    "brute_force",
    "cell_list",
    "check_distances",
    "checked_displacements",
    "displacements",
    "find_pairs",
    "gradient_by_coordinates",
    "neighborhoods",
    "triples",
]
