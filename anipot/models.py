"""The published potentials as functions, and ``load`` for everything else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from anipot.derivatives import as_potential

if TYPE_CHECKING:
    from anipot.potential import Potential

__all__ = ["ANI1ccx", "ANI1x", "ANI2x", "load"]

_ENDINGS = (".safetensors", ".pt", ".pth", ".zip", ".whl", ".info")


@torch.inference_mode(False)
def load(
    name_or_path: str | os.PathLike[str] = "mini",
    *,
    model_index: int | None = None,
    periodic_table_index: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """Return a potential by its name in the zoo, or from a file or folder.

    Parameters
    ----------
    name_or_path
        ``"ani2x"``, ``"ANI-2x"`` or the name of an imported model; or the path of a safetensors file of ours, of a
        NeuroChem folder, zip or .info file, or of a TorchANI state dict (.pt). A name comes before a file of the same
        name; ``"./ani2x"`` is the file. By default ``"mini"``, a small model of H, C, N and O that comes with the
        package.
    model_index
        One member of the ensemble; all by default.
    periodic_table_index
        Whether species are atomic numbers (default) or element indices.
    device, dtype
        Of the networks; by default the CPU, and the dtype of the file or of torch's default, whichever is longer.

    Raises
    ------
    ValueError
        If there is no such model, or if the file is damaged or of an unknown kind.
    FileNotFoundError
        If there is no such file.
    IndexError
        If there is no such member.
    anipot.zoo.ZooError
        If the weights of a published model cannot be had.

    Examples
    --------
    >>> import anipot
    >>> anipot.load("ani3x")
    Traceback (most recent call last):
    ...
    ValueError: no model is named 'ani3x'; did you mean ...
    """
    from anipot import zoo

    options: dict[str, Any] = {"periodic_table_index": periodic_table_index, "device": device, "dtype": dtype}
    if isinstance(name_or_path, str) and not _is_path(name_or_path):
        return zoo.load(name_or_path, model_index, **options)
    return zoo.load_path(name_or_path, model_index, **options)


def potential_of(model: torch.nn.Module | str) -> Potential:
    """Return a model as a ``Potential``: a name or path is loaded, a ``Sequential`` seen as its parts."""
    return load(model) if isinstance(model, str) else as_potential(model)


def ANI1x(
    model_index: int | None = None,
    periodic_table_index: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """Return ANI-1x: ωB97X/6-31G(d), H C N O, 8 members (doi:10.1063/1.5023802); see ``load``."""
    return _published("ani1x", model_index, periodic_table_index, device, dtype)


def ANI1ccx(
    model_index: int | None = None,
    periodic_table_index: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """Return ANI-1ccx: CCSD(T)*/CBS, H C N O, 8 members (doi:10.1038/s41467-019-10827-4); see ``load``."""
    return _published("ani1ccx", model_index, periodic_table_index, device, dtype)


def ANI2x(
    model_index: int | None = None,
    periodic_table_index: bool = True,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Potential:
    """Return ANI-2x: ωB97X/6-31G(d), H C N O S F Cl, 8 members (doi:10.1021/acs.jctc.0c00121); see ``load``."""
    return _published("ani2x", model_index, periodic_table_index, device, dtype)


@torch.inference_mode(False)
def _published(
    name: str,
    model_index: int | None,
    periodic_table_index: bool,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> Potential:
    from anipot import zoo

    return zoo.load(name, model_index, periodic_table_index=periodic_table_index, device=device, dtype=dtype)


def _is_path(text: str) -> bool:
    from anipot import zoo
    from anipot.zoo.index import normalise

    separators = [s for s in (os.sep, os.altsep) if s]
    if text.endswith(_ENDINGS) or any(s in text for s in separators):
        return True
    return os.path.exists(text) and normalise(text) not in zoo.names()
