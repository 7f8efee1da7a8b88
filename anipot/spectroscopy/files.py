"""What an analysis of normal modes leaves in a folder."""

from __future__ import annotations

from anipot import workfolder
from anipot.spectroscopy.modes import NormalModes
from anipot.workfolder import WorkFolder


def write_modes(folder: WorkFolder, modes: NormalModes, name: str = "", width: float = 10.0) -> None:
    """Write the geometry, one swing of each mode, and a picture of the spectrum where matplotlib is there.

    Parameters
    ----------
    folder
        Gets ``geometry.xyz``, ``modes/000.xyz``, …, ``spectrum.png`` and ``spectrum.svg``.
    modes
        Of one system.
    name
        What names of files start with, where there are several systems.
    width
        cm⁻¹, of lines in the picture.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import anipot
    >>> from ase.build import molecule
    >>> with TemporaryDirectory() as place:
    ...     folder = WorkFolder(f"{place}/n2", ["vib", "n2.xyz", "--opt"])
    ...     write_modes(folder, anipot.normal_modes(molecule("N2"), anipot.load(), optimize=True)[0])
    ...     sorted(path.name for path in folder.path.iterdir() if path.suffix not in (".png", ".svg"))
    ['command.txt', 'geometry.xyz', 'modes']
    """
    import ase.io

    ase.io.write(folder / f"{name}geometry.xyz", modes.atoms, format="extxyz")
    (folder / "modes").mkdir(exist_ok=True)
    for i in range(len(modes.frequencies)):
        modes.animate(i, folder / "modes" / f"{name}{i:03d}.xyz")
    if workfolder.can_draw() and len(modes.frequencies):
        folder.save_picture(f"{name}spectrum", modes.plot(width=width))
