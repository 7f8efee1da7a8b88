"""Query by committee: an ensemble has something to learn from structures on which its members disagree."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anipot.data.blocks import Block
from anipot.derivatives import single_point
from anipot.potential import Potential
from anipot.units import HARTREE_TO_KCALMOL

#: ρ = σ/√N, kcal/mol, above which a structure is worth a calculation; that of ANI-1x (doi:10.1063/1.5023802).
THRESHOLD = 0.23
#: Atoms that are computed in one call.
BATCH_ATOMS = 4096


def disagreement(model: Potential, block: Block, batch_atoms: int = BATCH_ATOMS) -> NDArray[np.float64]:
    """Return ρ = σ/√N for each structure: the standard deviation of the members' energies over the root of the atoms.

    Parameters
    ----------
    model
        An ensemble.
    block
        n structures.
    batch_atoms
        How many atoms are computed in one call, about.

    Returns
    -------
    array
        (n,) kcal/mol. σ is unbiased; ρ of what the model cannot compute in finite numbers is infinite.

    Raises
    ------
    ValueError
        If the model has one member only.

    Examples
    --------
    >>> import numpy as np
    >>> from anipot import AEVComputer, ANIModel, AtomicNetwork, CELU, EnergyShifter, Ensemble, Potential
    >>> members = [ANIModel([AtomicNetwork((384, 8, 1), CELU(0.1)) for _ in "HCNO"]) for _ in range(3)]
    >>> model = Potential("HCNO", AEVComputer.like_1x(), Ensemble(members), EnergyShifter([0.0] * 4))
    >>> h2 = Block(np.array([[1, 1], [1, 1]]), np.array([[[0, 0, 0.0], [0, 0, 0.7]], [[0, 0, 0], [0, 0, 1.4]]]))
    >>> disagreement(model, h2).shape
    (2,)
    """
    check_committee(model)
    found = np.empty(len(block))
    step = max(1, batch_atoms // max(block.num_atoms, 1))
    for start in range(0, len(block), step):
        part = block.take(np.arange(start, min(start + step, len(block))))
        species, coordinates, cell, pbc = tensors(model, part)
        result = single_point(model, species, coordinates, cell, pbc, forces=False, members=True)
        assert result.members is not None
        found[start : start + step] = result.members.qbc.double().cpu().numpy() * HARTREE_TO_KCALMOL
    return np.where(np.isfinite(found), found, np.inf)


def tensors(model: Potential, block: Block) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return species, coordinates, cell and pbc of a block as tensors on the device of a model."""
    device = model.device
    species = torch.as_tensor(block.species, dtype=torch.long, device=device)
    if not model.periodic_table_index:
        species = model.converter.convert(species)
    coordinates = torch.as_tensor(block.coordinates, dtype=torch.float64, device=device)
    if block.cell is None or block.pbc is None or not block.pbc.any():
        return species, coordinates, None, None
    cell = torch.as_tensor(block.cell, dtype=torch.float64, device=device)
    return species, coordinates, cell, torch.as_tensor(block.pbc, dtype=torch.bool, device=device)


def check_committee(model: Potential) -> None:
    """Refuse a model that has nobody to disagree with.

    Raises
    ------
    ValueError
        Naming how many members there are.
    """
    if len(model) < 2:
        raise ValueError(
            f"query by committee needs an ensemble; {model.name or 'this model'} has {len(model)} member "
            "(a threshold of 0 takes every structure and asks nobody)"
        )


def digest(model: Potential) -> str:
    """Return what tells one model from another: a hash of its weights and of what it is made of, wherever it lies."""
    facts = {key: value for key, value in model.info().items() if key not in ("file", "source")}
    found = hashlib.sha256(repr(sorted(facts.items(), key=str)).encode())
    for name, tensor in model.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
