"""A Hessian guessed from the geometry: which bonds are stiff and which torsions are soft is known before any force."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from anipot.neighbors import displacements, find_pairs
from anipot.units import BOHR_TO_ANGSTROM

#: Exponents (1/bohr²) and distances (bohr) by the rows of the periodic table of both atoms: H–He, Li–Ne, the rest.
EXPONENTS = ((1.0, 0.3949, 0.3949), (0.3949, 0.28, 0.28), (0.3949, 0.28, 0.28))
DISTANCES = ((1.35, 2.1, 2.53), (2.1, 2.87, 3.4), (2.53, 3.4, 3.4))
#: Force constants of stretches (Hartree/bohr²), bends and torsions (Hartree/rad²).
STRETCH, BEND, TORSION = 0.45, 0.15, 0.005
#: Hartree for an atom that leaves the plane of its three neighbors: not in the paper, without it carbonyl groups and
#: rings are too soft by a factor of ten. Chosen so that the Hessians of ANI-2x at minima of drugs come out near.
FLAP = 0.04
#: Height above that plane, counted in bonds (summed over three), up to which an atom counts as flat.
FLAT = 0.6
#: Å within which atoms count; beyond, the weights of stretches are below 0.001.
CUTOFF = 3.2
#: Weights of pairs that take part in bends and torsions.
BONDED = 0.1
#: |cos| above which an angle counts as straight: it bends in two directions, and no torsion ends in it.
STRAIGHT = 0.97


class _Bonds(NamedTuple):
    """Neighbors of every slot, in K places of which some are empty."""

    slot: Tensor  # (N, K)
    vector: Tensor  # (N, K, 3) bohr
    weight: Tensor  # (N, K), 0 in empty places


def model_hessian(
    numbers: Tensor, coordinates: Tensor, cell: Tensor | None = None, pbc: Tensor | None = None
) -> Tensor:
    """Return the model Hessian of Lindh et al. for molecules or crystals.

    Stretches, bends and torsions have force constants that fall off smoothly with the distances, so that no bonds need
    be known: k_ij = 0.45 ρ_ij, k_ijk = 0.15 ρ_ij ρ_jk and k_ijkl = 0.005 ρ_ij ρ_jk ρ_kl with
    ρ_ij = exp(α_ij (r_ref,ij² − r_ij²)), here at most 1. Flat atoms with three neighbors resist leaving the plane as
    well. The Hessian is positive semidefinite, with zeros for translations and rotations.

    Parameters
    ----------
    numbers
        (B, A) atomic numbers, ghosts -1.
    coordinates
        (B, A, 3), Å.
    cell, pbc
        (B, 3, 3) in Å and (B, 3) bool, or None.

    Returns
    -------
    Tensor
        (B, 3A, 3A), Hartree/Å², float64; 0 for ghosts.

    References
    ----------
    R. Lindh, A. Bernhardsson, G. Karlström, P.-Å. Malmqvist, Chem. Phys. Lett. 1995, 241, 423,
    doi:10.1016/0009-2614(95)00646-L.

    Examples
    --------
    >>> import torch
    >>> hydrogen = torch.tensor([[1, 1]]), torch.tensor([[[0.0, 0, 0], [0.7144, 0, 0]]])  # 1.35 bohr
    >>> k = model_hessian(*hydrogen)[0, 0, 0] * 0.5291772**2
    >>> round(float(k), 4)
    0.45
    """
    shape = numbers.shape
    pairs = find_pairs(numbers, coordinates, cell, pbc, CUTOFF)
    vectors = displacements(pairs, coordinates, cell, pbc) / BOHR_TO_ANGSTROM
    row = ((numbers > 2).long() + (numbers > 10).long()).flatten()
    alpha, reference = (vectors.new_tensor(table)[row[pairs.center], row[pairs.neighbor]] for table in _TABLES)
    squared = (vectors**2).sum(-1)
    weight = torch.exp(alpha * (reference**2 - squared)).clamp(max=1.0)
    blocks = vectors.new_zeros(shape[0] * shape[1] * shape[1], 3, 3)
    units = vectors / squared.sqrt()[:, None]
    half = torch.stack([-units, units], dim=1)  # every pair comes in both directions
    _add(blocks, shape[1], torch.stack([pairs.center, pairs.neighbor], dim=1), half, 0.5 * STRETCH * weight)
    bonds = _bonds(pairs.center, pairs.neighbor, vectors, weight, shape.numel())
    for atoms, rows, constants in (*_bends(bonds), _torsions(bonds), _flaps(bonds)):
        _add(blocks, shape[1], atoms, rows, constants)
    hessian = blocks.view(*shape, shape[1], 3, 3).transpose(2, 3).reshape(shape[0], 3 * shape[1], 3 * shape[1])
    return hessian / BOHR_TO_ANGSTROM**2


_TABLES = (EXPONENTS, DISTANCES)


def _add(blocks: Tensor, num_atoms: int, atoms: Tensor, rows: Tensor, constants: Tensor) -> None:
    """Add Σ k b bᵀ, with rows b (R, M, 3) over M atoms (R, M) of one molecule each."""
    scaled = rows * constants.sqrt()[:, None, None]
    outer = torch.einsum("rmi,rnj->rmnij", scaled, scaled)
    where = atoms[:, :, None] * num_atoms + (atoms % num_atoms)[:, None, :]
    blocks.index_add_(0, where.flatten(), outer.flatten(0, 2))


def _bonds(center: Tensor, neighbor: Tensor, vectors: Tensor, weight: Tensor, num_slots: int) -> _Bonds:
    kept = weight > BONDED
    center, neighbor, vectors, weight = center[kept], neighbor[kept], vectors[kept], weight[kept]
    counts = torch.bincount(center, minlength=num_slots)
    place = torch.arange(len(center), device=center.device) - (counts.cumsum(0) - counts)[center]
    most = max(3, int(counts.max()))
    slot = center.new_zeros(num_slots, most)
    slot[center, place] = neighbor
    vector, weights = vectors.new_zeros(num_slots, most, 3), vectors.new_zeros(num_slots, most)
    vector[center, place], weights[center, place] = vectors, weight
    return _Bonds(slot, vector, weights)


def _bends(bonds: _Bonds) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return atoms i, j, k, rows dθ/dx and constants; straight angles bend in two directions."""
    weight = torch.triu(bonds.weight[:, :, None] * bonds.weight[:, None, :], diagonal=1)
    j, p, q = weight.nonzero(as_tuple=True)
    u, v = bonds.vector[j, p], bonds.vector[j, q]
    ru, rv = u.norm(dim=-1, keepdim=True), v.norm(dim=-1, keepdim=True)
    u, v = u / ru, v / rv
    straight = (u * v).sum(-1).abs() > STRAIGHT
    least = torch.nn.functional.one_hot(u.abs().argmin(-1), 3).to(u)
    normal = torch.where(straight[:, None], torch.linalg.cross(u, least), torch.linalg.cross(u, v))
    normal = normal / normal.norm(dim=-1, keepdim=True)
    atoms = torch.stack([bonds.slot[j, p], j, bonds.slot[j, q]], dim=1)
    constants = BEND * weight[j, p, q]
    a, b = torch.linalg.cross(u, normal) / ru, torch.linalg.cross(normal, v) / rv
    within = torch.stack([a, -a - b, b], dim=1)
    a, b = normal / ru, normal / rv
    # Of a straight angle both ends move to the same side; folded back (a ring of three images), to opposite ones.
    b = torch.where((u * v).sum(-1, keepdim=True) < 0, b, -b)
    across = torch.stack([a, -a - b, b], dim=1)[straight]
    return [(atoms, within, constants), (atoms[straight], across, constants[straight])]


def _torsions(bonds: _Bonds) -> tuple[Tensor, Tensor, Tensor]:
    """Return atoms i, j, k, l, rows dφ/dx and constants.

    Rows are those of Blondel and Karplus, doi:10.1002/(SICI)1096-987X(19960715)17:9<1132::AID-JCC5>3.0.CO;2-T.
    """
    j, p = (bonds.weight > 0).nonzero(as_tuple=True)
    k = bonds.slot[j, p]
    once = j < k
    j, p, k = j[once], p[once], k[once]
    middle = bonds.vector[j, p]  # j to k
    weight = bonds.weight[j, p][:, None, None] * bonds.weight[j][:, :, None] * bonds.weight[k][:, None, :]
    bond, s, t = (weight > BONDED**2).nonzero(as_tuple=True)
    f, h, g = bonds.vector[j[bond], s], bonds.vector[k[bond], t], -middle[bond]  # i − j, l − k, j − k
    a, b = torch.linalg.cross(f, g), torch.linalg.cross(h, g)
    length = g.norm(dim=-1, keepdim=True)
    a2, b2 = (a * a).sum(-1, keepdim=True), (b * b).sum(-1, keepdim=True)
    bent = 1 - STRAIGHT**2  # sin² of an angle that is not straight; also leaves out i = k and l = j
    kept = (a2 > bent * (f * f).sum(-1, keepdim=True) * length**2) & (
        b2 > bent * (h * h).sum(-1, keepdim=True) * length**2
    )
    kept = kept[:, 0] & (bonds.slot[j[bond], s] != bonds.slot[k[bond], t])
    at_i, at_l = -length / a2 * a, length / b2 * b
    shear = (f * g).sum(-1, keepdim=True) / (a2 * length) * a - (h * g).sum(-1, keepdim=True) / (b2 * length) * b
    rows = torch.stack([at_i, -at_i + shear, -at_l - shear, at_l], dim=1)
    atoms = torch.stack([bonds.slot[j[bond], s], j[bond], k[bond], bonds.slot[k[bond], t]], dim=1)
    return atoms[kept], rows[kept], TORSION * weight[bond, s, t][kept]


def _flaps(bonds: _Bonds) -> tuple[Tensor, Tensor, Tensor]:
    """Return atoms, rows and constants of flat atoms that leave the plane of their three neighbors.

    The height above the plane, n · (x − Σ w_a x_a) with weights of the foot point, has the gradient n (1, −w_a); it is
    counted in units of the bonds.
    """
    center = ((bonds.weight > 0).sum(-1) == 3).nonzero()[:, 0]
    a, b, c = bonds.vector[center, :3].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    squared = (normal**2).sum(-1, keepdim=True)
    areas = [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)]
    weights = torch.stack([(area * normal).sum(-1) for area in areas], dim=1) / squared  # their sum is 1
    normal = normal / squared.sqrt()
    per_bond = (1 / bonds.vector[center, :3].norm(dim=-1)).sum(-1)
    flat = ((a * normal).sum(-1).abs() * per_bond < FLAT) & (weights > 0).all(-1)
    rows = torch.cat([torch.ones_like(weights[:, :1]), -weights], dim=1)[:, :, None] * normal[:, None]
    rows = rows * per_bond[:, None, None]
    atoms = torch.cat([center[:, None], bonds.slot[center, :3]], dim=1)
    constants = FLAP * bonds.weight[center, :3].prod(-1)
    return atoms[flat], rows[flat], constants[flat]
