"""Normal modes from a Hessian."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from anipot.units import MHESSIAN_TO_FCONST, SQRT_MHESSIAN_TO_INVERSE_CM, SQRT_MHESSIAN_TO_MEV

_UNITS = {"cm^-1": SQRT_MHESSIAN_TO_INVERSE_CM, "meV": SQRT_MHESSIAN_TO_MEV}
_NORMALIZATIONS = ("MDU", "MDN", "MWN")


class VibrationalAnalysis(NamedTuple):
    """Frequencies, modes, force constants (mDyne/Å) and reduced masses (u), ordered from the lowest frequency up."""

    freqs: Tensor
    modes: Tensor
    fconstants: Tensor
    rmasses: Tensor


def vibrational_analysis(
    masses: Tensor, hessian: Tensor, mode_type: str = "MDU", unit: str = "cm^-1", *, project: Tensor | None = None
) -> VibrationalAnalysis:
    """Return the normal modes of one molecule or of a padded batch.

    The mass-weighted Hessian M^(−1/2) H M^(−1/2) has eigenvalues (2πν)² and eigenvectors L.

    Parameters
    ----------
    masses
        (B, A) or (A,), u; 0 for the ghosts of a padded batch.
    hessian
        (B, 3A, 3A) or (3A, 3A), Hartree/Å².
    mode_type
        How modes are normalised: ``"MDU"`` mass-deweighted, unnormalised, M^(−1/2) L (displacements whose squared norm
        is 1 / reduced mass); ``"MDN"`` the same, normalised; ``"MWN"`` mass-weighted, normalised, L.
    unit
        Of the frequencies: ``"cm^-1"`` or ``"meV"``.
    project
        Coordinates (B, A, 3) or (A, 3), Å, of a stationary point: translations and rotations about its center of mass
        are then projected out, and come out as exact zeros. None keeps them.

    Returns
    -------
    VibrationalAnalysis
        ``freqs`` (..., 3A), imaginary ones as negative numbers; ``modes`` (..., 3A, A, 3); ``fconstants`` and
        ``rmasses`` (..., 3A). The 3g places of g ghosts come last and hold NaN.

    Raises
    ------
    ValueError
        For shapes that do not fit, masses that are negative or not finite, NaN in the Hessian, an unknown
        ``mode_type`` or ``unit``.

    Examples
    --------
    >>> import torch
    >>> spring = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])  # 1 Hartree/Å² along x between two atoms
    >>> hessian = torch.kron(spring, torch.diag(torch.tensor([1.0, 0.0, 0.0])))
    >>> result = vibrational_analysis(torch.tensor([1.0, 1.0]), hessian)
    >>> round(float(result.freqs[-1])), round(float(result.rmasses[-1]), 3)
    (3847, 1.0)
    """
    if mode_type not in _NORMALIZATIONS:
        raise ValueError(f"mode_type must be one of {', '.join(_NORMALIZATIONS)}, got {mode_type!r}")
    if unit not in _UNITS:
        raise ValueError(f"unit must be one of {', '.join(_UNITS)}, got {unit!r}")
    _check(masses, hessian, project)
    if masses.dim() == 1:
        positions = None if project is None else project[None]
        single = vibrational_analysis(masses[None], hessian[None], mode_type, unit, project=positions)
        return VibrationalAnalysis(*(values[0] for values in single))
    molecules = []
    for b in range(len(masses)):
        positions = None if project is None else project[b]
        molecules.append(_one(masses[b].double(), hessian[b].double(), positions, mode_type, _UNITS[unit]))
    num_atoms = masses.shape[1]
    shapes = ((3 * num_atoms,), (3 * num_atoms, num_atoms, 3), (3 * num_atoms,), (3 * num_atoms,))
    if not molecules:
        return VibrationalAnalysis(*(hessian.new_zeros(0, *shape) for shape in shapes))
    return VibrationalAnalysis(*(torch.stack(values).to(hessian.dtype) for values in zip(*molecules, strict=True)))


def _one(masses: Tensor, hessian: Tensor, positions: Tensor | None, mode_type: str, unit: float) -> VibrationalAnalysis:
    """Analyse one molecule; arguments float64, masses (A,) with 0 for ghosts."""
    num_atoms = len(masses)
    real = masses > 0
    keep = real.repeat_interleave(3).nonzero().squeeze(1)
    root = masses[real].repeat_interleave(3).sqrt()  # (3n,)
    weighted = hessian[keep][:, keep] / root[:, None] / root[None, :]
    weighted = (weighted + weighted.T) / 2
    if positions is not None:
        rigid = _rigid_motions(positions.double()[real], masses[real])
        eigenvalues, vectors = _with_rigid(*modes_outside(weighted, rigid), rigid)
    else:
        eigenvalues, vectors = torch.linalg.eigh(weighted)
    freqs = eigenvalues.sign() * eigenvalues.abs().sqrt() * unit
    displacements = vectors.T / root  # (3n, 3n), one mode a row
    rmasses = 1 / (displacements * displacements).sum(-1)
    fconstants = eigenvalues * rmasses * MHESSIAN_TO_FCONST
    modes = {
        "MDU": displacements,
        "MDN": displacements * rmasses.sqrt()[:, None],
        "MWN": vectors.T,
    }[mode_type]
    nan = math.nan
    full_modes = torch.full((3 * num_atoms, 3 * num_atoms), nan, dtype=modes.dtype, device=modes.device)
    full_modes[: len(keep)] = 0
    full_modes[: len(keep), keep] = modes
    padded = [
        torch.nn.functional.pad(v, (0, 3 * num_atoms - len(keep)), value=nan) for v in (freqs, fconstants, rmasses)
    ]
    return VibrationalAnalysis(padded[0], full_modes.view(3 * num_atoms, num_atoms, 3), padded[1], padded[2])


def _rigid_motions(positions: Tensor, masses: Tensor) -> Tensor:
    """Return an orthonormal basis (3n, 3 to 6) of translations and rotations in mass-weighted coordinates."""
    centered = positions - (masses[:, None] * positions).sum(0) / masses.sum()
    axes = torch.eye(3, dtype=positions.dtype, device=positions.device)
    translations = axes[:, None, :].expand(3, len(positions), 3)
    rotations = torch.linalg.cross(axes[:, None, :].expand_as(translations), centered[None].expand_as(translations))
    motions = torch.cat([translations, rotations]) * masses.sqrt()[None, :, None]  # (6, n, 3)
    basis, sizes, _ = torch.linalg.svd(motions.flatten(1).T, full_matrices=False)
    return basis[:, sizes > 1e-6 * sizes[0]]  # a linear molecule has 5, an atom 3


def modes_outside(weighted: Tensor, rigid: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonalise a mass-weighted Hessian in the space outside some motions.

    Parameters
    ----------
    weighted
        (3n, 3n), symmetric, Hartree/(Å² u).
    rigid
        (3n, k) orthonormal columns.

    Returns
    -------
    values, vectors
        (3n − k,) eigenvalues from the lowest up, and (3n, 3n − k) eigenvectors, orthonormal columns.

    Examples
    --------
    >>> import torch
    >>> values, vectors = modes_outside(torch.diag(torch.tensor([1.0, 2.0, 3.0])), torch.eye(3)[:, :1])
    >>> values.tolist(), tuple(vectors.shape)
    ([2.0, 3.0], (3, 2))
    """
    outside = torch.linalg.svd(rigid, full_matrices=True)[0][:, rigid.shape[1] :]
    values, vectors = torch.linalg.eigh(outside.T @ weighted @ outside)
    return values, outside @ vectors


def _with_rigid(values: Tensor, vectors: Tensor, rigid: Tensor) -> tuple[Tensor, Tensor]:
    """Put rigid motions back as exact zeros in their place."""
    values = torch.cat([values, values.new_zeros(rigid.shape[1])])
    vectors = torch.cat([vectors, rigid], dim=1)
    order = torch.argsort(values, stable=True)
    return values[order], vectors[:, order]


def _check(masses: Tensor, hessian: Tensor, project: Tensor | None) -> None:
    num_atoms = masses.shape[-1] if masses.dim() else 0
    expected = (*masses.shape[:-1], 3 * num_atoms, 3 * num_atoms)
    if masses.dim() not in (1, 2) or tuple(hessian.shape) != expected:
        raise ValueError(
            "masses must have shape (A,) or (B, A) and the hessian (3A, 3A) or (B, 3A, 3A), got "
            f"{tuple(masses.shape)} and {tuple(hessian.shape)}"
        )
    if not torch.isfinite(masses).all() or (masses < 0).any():
        raise ValueError("masses must be finite and not negative (0 for ghosts)")
    if project is not None and tuple(project.shape) != (*masses.shape, 3):
        raise ValueError(f"project must hold coordinates of shape {(*masses.shape, 3)}, got {tuple(project.shape)}")
    if not torch.isfinite(hessian).all():
        raise ValueError("the hessian holds NaN or infinite values")
