"""Make the pictures of docs/: what the commands shown there leave, and spectra beside the normal modes of the model.

Usage: python tools/docs_pictures.py [NAME…] [--folder docs/pictures] [--scratch FOLDER]

Without names all are made. Takes some minutes for the dynamics of each molecule, and seconds for the others. ``neb_…``
needs the weights of ANI-2x and the extra ``ts``.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import anipot
from anipot.cli import main as anipot_command
from anipot.dynamics import infrared_spectrum, power_spectrum, read_trajectory

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "examples" / "data"
#: Pictures, the commands that leave them, and under which name.
COMMANDS: dict[str, tuple[list[Any], str]] = {
    "opt_ibuprofen": (["opt", DATA / "ibuprofen.xyz"], "ibuprofen_opt/convergence.png"),
    "vib_ethanol": (["vib", DATA / "ethanol.xyz", "--opt", "--members"], "ethanol_vib/spectrum.png"),
    "neb_malondialdehyde": (
        ["neb", DATA / "malondialdehyde.xyz", DATA / "malondialdehyde_other.xyz", "--ts", "--model", "ani2x"],
        "malondialdehyde_neb/path.png",
    ),
}
for _name in ("ethanol", "malondialdehyde"):
    _options = ["--ensemble", "nvt", "--friction", "0.001", "--steps", "90000", "--interval", "4", "--format", "h5md"]
    COMMANDS[f"md_{_name}"] = ["md", DATA / f"{_name}.xyz", *_options], f"{_name}_md/md.png"
    _options = ["--skip", "5", "--resolution", "8", "--folder", f"{_name}_spectrum"]
    _picture = f"{_name}_spectrum/infrared.png"
    COMMANDS[f"spectrum_{_name}"] = ["spectrum", f"{_name}_md/trajectory.h5", *_options], _picture


def run(name: str, scratch: Path) -> Path:
    """Run a command in the scratch folder, as a user would, and return the picture that it leaves."""
    arguments, picture = COMMANDS[name]
    if not (scratch / picture).exists():
        with contextlib.chdir(scratch):
            code = anipot_command(list(map(str, arguments)))
        if code:
            raise SystemExit(f"{name}: exit code {code}")
    return scratch / picture


def beside_modes(name: str, scratch: Path) -> Any:
    """Draw power and infrared spectrum of a molecule over what normal modes give."""
    run(f"md_{name}", scratch)
    trajectory = read_trajectory(scratch / f"{name}_md" / "trajectory.h5").after(5000)
    model = anipot.load(dtype=torch.float64)
    (modes,) = anipot.normal_modes(DATA / f"{name}.xyz", model, optimize=True)
    power = power_spectrum(trajectory, resolution=8, last=4000)
    infrared = infrared_spectrum(trajectory, resolution=8, last=4000)
    print(f"{name}: {power.temperature:.1f} K, {power.area():.2f} modes, {infrared.area():.0f} km/mol in dynamics")
    print(f"{name}: {modes.intensities.sum():.0f} km/mol in normal modes")
    top, bottom = axes = Figure(figsize=(7, 5), layout="constrained").subplots(2, sharex=True)
    power.plot(top, f"{model.name}, dynamics at 300 K, 40 ps")
    top.vlines(modes.frequencies, 0, -0.05 * power.values.max(), color="C3", linewidth=1, label="normal modes")
    infrared.plot(bottom)
    sizes = modes.intensities / modes.intensities.max()
    bottom.vlines(modes.frequencies, 0, -0.3 * sizes * infrared.values.max(), color="C3", linewidth=1)
    top.set_xlabel("")
    for ax in axes:
        ax.label_outer()
    top.legend(loc="upper center", bbox_to_anchor=(0.56, 1))
    return top.figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    spectra = [f"spectra_{name}" for name in ("ethanol", "malondialdehyde")]
    shown = [name for name in COMMANDS if name not in ("md_malondialdehyde", "spectrum_malondialdehyde")]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*shown, *spectra]))
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    parser.add_argument(
        "--scratch", type=Path, default=Path("docs_pictures"), help="where commands leave their folders"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    args.scratch.mkdir(parents=True, exist_ok=True)
    if unknown := set(args.names) - {*COMMANDS, *spectra}:
        parser.error(f"no picture {', '.join(sorted(unknown))}")
    for name in args.names or [*shown, *spectra]:
        if name in spectra:
            beside_modes(name.removeprefix("spectra_"), args.scratch).savefig(args.folder / f"{name}.png", dpi=100)
        else:
            shutil.copyfile(run(name, args.scratch), args.folder / f"{name}.png")
        print(args.folder / f"{name}.png")


if __name__ == "__main__":
    main()
