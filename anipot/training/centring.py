"""Untrained networks that return the right energies on average: a training starts without an offset to unlearn."""

from __future__ import annotations

import torch

from anipot.data import AtomsDataset
from anipot.potential import Potential
from anipot.training.layers import layers_of, networks_of
from anipot.training.starting import shift_of


def center_energies(potential: Potential, dataset: AtomsDataset) -> None:
    """Move the biases of the last layers so that energies are right on average over some structures.

    Random networks return something else than 0 for each atom, which adds up over the atoms of a molecule to much more
    than what is to be learned. Networks of elements are moved by least squares, a network that serves all elements by
    the mean error of an atom.
    """
    last = [layers_of(network)[-1] for name, network in networks_of(potential) if name.startswith("head.")]
    if not last or any(layer.bias is None for layer in last):
        return
    shift, counts = shift_of(potential, dataset)
    if len(last) != len(shift):
        shift = (counts @ shift / counts.sum()).expand(len(last))
    with torch.no_grad():
        for layer, by in zip(last, shift, strict=True):
            layer.bias.add_(by.to(layer.bias))
