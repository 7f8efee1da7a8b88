"""Power spectra of ethanol and malondialdehyde beside the normal modes of the same model: pictures for docs/spectra.md.

Usage: python tools/spectra_pictures.py [FOLDER] [--model mini] [--picoseconds 40]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
from matplotlib.figure import Figure

import anipot
from anipot.dynamics import MolecularDynamics, Settings, plot_log, power_spectrum, read_log, read_trajectory

HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=HERE / "docs" / "pictures")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--picoseconds", type=float, default=40)
    parser.add_argument("--scratch", type=Path, default=Path("spectra_runs"))
    args = parser.parse_args()
    model = anipot.load(args.model)
    args.folder.mkdir(parents=True, exist_ok=True)
    for name in ("ethanol", "malondialdehyde"):
        atoms = ase.io.read(HERE / "examples" / "data" / f"{name}.xyz")
        (modes,) = anipot.normal_modes([atoms], anipot.load(args.model).double(), optimize=True)
        atoms.positions[:] = modes.atoms.positions
        # A weak thermostat broadens lines by γ/(2πc) = 5.3 cm⁻¹ and leaves no mode without its share of energy.
        settings = Settings("nvt", temperature=300, timestep=0.5, friction=1e-3)
        run = MolecularDynamics(
            atoms, model, args.scratch / name, settings, interval=4, checkpoint_interval=4000, formats=["h5md"],
            overwrite=True, seed=1,
        )  # fmt: skip
        run.run(int((args.picoseconds + 5) * 2000))
        trajectory = read_trajectory(args.scratch / name / "trajectory.h5").after(5000)
        spectrum = power_spectrum(trajectory, resolution=8, last=4000)
        print(name, f"{spectrum.temperature:.1f} K, {spectrum.area():.2f} modes")
        ax = Figure(figsize=(7, 3), layout="constrained").subplots()
        spectrum.plot(ax, f"{args.model}, dynamics at 300 K, {args.picoseconds:g} ps")
        frequencies = modes.frequencies[modes.frequencies > 0]
        ax.vlines(frequencies, 0, -0.05 * spectrum.values.max(), color="C3", linewidth=1, label="normal modes")
        ax.legend(loc="upper center", bbox_to_anchor=(0.56, 1))
        ax.figure.savefig(args.folder / f"power_{name}.png", dpi=100)
        if name == "ethanol":
            axes = plot_log(read_log(run.log))
            axes[0].figure.savefig(args.folder / "md_ethanol.png", dpi=80)


if __name__ == "__main__":
    main()
