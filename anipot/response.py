"""How dipole moments answer to moving the atoms."""

from __future__ import annotations

import torch
from torch import Tensor

from anipot.derivatives import as_potential


@torch.inference_mode(False)
def atomic_polar_tensors(
    model: torch.nn.Module,
    species: Tensor,
    coordinates: Tensor,
    *,
    dipole: str = "dipole",
    create_graph: bool = False,
) -> Tensor:
    """Return ∂μ_i/∂x_aj (B, A, 3, 3) in e: the Born charges of a molecule, from which infrared intensities follow.

    Element [b, a, i, j] tells how component i of the dipole moment of molecule b changes as atom a moves along j. The
    tensors of a neutral molecule add up to zero, those of a molecule of charge q to q times the unit matrix.

    Parameters
    ----------
    model
        A ``Potential`` with a dipole among its properties.
    species, coordinates
        As for ``single_point``; molecules without periodic axes.
    dipole
        Name of the property head, whose values are (B, 3).
    create_graph
        Whether the result can be differentiated further, for training or Raman-like properties.

    Raises
    ------
    ValueError
        If there is no such property, or it is not a vector.

    Examples
    --------
    >>> import torch
    >>> from anipot import AtomicNetwork, Atomwise, DipoleMoment, EnergyShifter, Potential, SchNet, ShiftedSoftplus
    >>> heads = {"dipole": DipoleMoment(AtomicNetwork((16, 8, 1), ShiftedSoftplus()), ["H", "O"])}
    >>> model = Potential(["H", "O"], SchNet(2, 16), Atomwise.pyramid(16), EnergyShifter([0.0] * 2), properties=heads)
    >>> water = torch.tensor([[8, 1, 1]]), torch.tensor([[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]])
    >>> atomic_polar_tensors(model, *water).shape
    torch.Size([1, 3, 3, 3])
    """
    potential = as_potential(model)
    names = potential.property_names((dipole,))
    if getattr(potential.property_heads[dipole], "per_atom", False):
        raise ValueError(f"the property {dipole!r} has values of atoms, a dipole is one of the molecule")
    with torch.enable_grad():
        x = coordinates.detach().clone().requires_grad_()
        moment = potential.properties((species, x), names=names)[dipole]
        if moment.shape != (len(species), 3):
            raise ValueError(
                f"the property {dipole!r} has the shape {tuple(moment.shape)}, a dipole has (molecules, 3)"
            )
        rows = []
        for i in range(3):
            total, keep = moment[:, i].sum(), create_graph or i < 2
            (row,) = torch.autograd.grad(total, x, retain_graph=keep, create_graph=create_graph)
            rows.append(row)
    return torch.stack(rows, dim=2)
