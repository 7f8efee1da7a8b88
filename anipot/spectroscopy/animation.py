"""Modes that move: frames for any viewer, and a picture that turns in a notebook."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

if TYPE_CHECKING:
    from anipot.spectroscopy.modes import NormalModes

#: Å that the atom which moves farthest goes to each side.
AMPLITUDE = 0.4


def animated(modes: NormalModes, mode: int, *, frames: int = 24, amplitude: float = AMPLITUDE) -> list[Atoms]:
    """Return one swing along a mode, which begins at the geometry and can be shown again and again.

    Parameters
    ----------
    modes
        Of one system.
    mode
        Index, from 0.
    frames
        How many pictures one swing has.
    amplitude
        Å that the atom which moves farthest goes to each side.

    Raises
    ------
    IndexError
        If there is no such mode.

    Examples
    --------
    >>> import anipot
    >>> from ase.build import molecule
    >>> water = anipot.normal_modes(molecule("H2O"), anipot.load(), optimize=True)[0]
    >>> swing = animated(water, 0, frames=4)
    >>> [round(float(abs(one.positions - water.atoms.positions).max()), 6) > 0 for one in swing]
    [False, True, False, True]
    """
    if not 0 <= mode < len(modes.frequencies):
        raise IndexError(f"there is no mode {mode}; there are {len(modes.frequencies)}, from 0")
    shape = modes.modes[mode]
    step = shape * amplitude / np.linalg.norm(shape, axis=-1).max()
    swing = []
    for phase in 2 * np.pi * np.arange(frames) / frames:
        atoms = modes.atoms.copy()
        atoms.set_constraint()  # a file would name fixed atoms in each frame
        atoms.positions += np.sin(phase) * step
        atoms.info |= {"mode": mode, "frequency_per_cm": float(modes.frequencies[mode])}
        atoms.arrays["displacements"] = step.copy()
        swing.append(atoms)
    return swing


def write_animation(path: str | Path, modes: NormalModes, mode: int, **options: Any) -> None:
    """Write one swing as extended XYZ, which ASE, OVITO, VMD and others show as a film."""
    import ase.io

    ase.io.write(path, animated(modes, mode, **options), format="extxyz")


def viewed(modes: NormalModes, mode: int, *, size: tuple[int, int] = (400, 300), **options: Any) -> Any:
    """Return a view of a mode that moves in a notebook; needs py3Dmol, ``pip install anipot[notebook]``."""
    try:
        import py3Dmol
    except ImportError as error:
        raise ImportError("a view of a mode needs py3Dmol: pip install anipot[notebook]") from error
    import ase.io

    text = io.StringIO()
    ase.io.write(text, animated(modes, mode, **options), format="xyz")
    view = py3Dmol.view(width=size[0], height=size[1])
    view.addModelsAsFrames(text.getvalue(), "xyz")
    view.setStyle({"stick": {"radius": 0.12}, "sphere": {"scale": 0.25}})
    view.animate({"loop": "forward", "interval": 40})
    view.zoomTo()
    return view
