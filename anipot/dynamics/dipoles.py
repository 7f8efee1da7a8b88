"""Dipoles along a trajectory, by a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from anipot.derivatives import single_point
from anipot.dynamics.trajectory import Trajectory
from anipot.sampling.committee import BATCH_ATOMS


def add_dipoles(trajectory: Trajectory, model: Any, batch_atoms: int = BATCH_ATOMS) -> Trajectory:
    """Return the trajectory with the dipoles that a model computes for its frames.

    Parameters
    ----------
    trajectory
        Any; dipoles that it has are replaced.
    model
        A ``Potential`` with a property head named ``"dipole"``, such as one that was trained on dipoles. It may be
        another than the one that ran the dynamics.
    batch_atoms
        Atoms in one calculation, about.

    Raises
    ------
    ValueError
        If the model has no such head, or does not know an element.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot import AtomicNetwork, Atomwise, DipoleMoment, EnergyShifter, Potential, SchNet, ShiftedSoftplus
    >>> heads = {"dipole": DipoleMoment(AtomicNetwork((16, 8, 1), ShiftedSoftplus()), ["H"])}
    >>> model = Potential(["H"], SchNet(1, 16), Atomwise.pyramid(16), EnergyShifter([0.0]), properties=heads)
    >>> positions = np.array([[[0, 0, 0], [0, 0, 0.74]], [[0, 0, 0], [0, 0, 0.75]]])
    >>> add_dipoles(Trajectory(np.array([1, 1]), np.ones(2), positions, 0.5), model).dipoles.shape
    (2, 3)
    """
    if "dipole" not in model.property_heads:
        heads = ", ".join(model.property_heads) or "none"
        raise ValueError(f"{model.name or 'the model'} has no property head named 'dipole'; it has {heads}")
    species = torch.as_tensor(trajectory.numbers, device=model.device)[None]
    if not model.periodic_table_index:
        species = model.converter.convert(species)
    count = max(1, batch_atoms // len(trajectory.numbers))
    found = []
    for start in range(0, len(trajectory), count):
        x = torch.as_tensor(trajectory.positions[start : start + count], device=model.device)
        cell = pbc = None
        if trajectory.periodic and trajectory.cells is not None and trajectory.pbc is not None:
            cell = torch.as_tensor(trajectory.cells[start : start + count], device=model.device)
            pbc = torch.as_tensor(trajectory.pbc, device=model.device).expand(len(x), 3)
        many = species.expand(len(x), -1)
        result = single_point(model, many, x, cell, pbc, forces=False, properties=["dipole"])
        assert result.properties is not None
        found.append(result.properties["dipole"].double().cpu().numpy())
    return replace(trajectory, dipoles=np.concatenate(found))
