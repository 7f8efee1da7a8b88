"""Radial distributions against ASE and diffusion against known walks."""

import numpy as np
import pytest
from ase import Atoms

from anipot.dynamics import Trajectory, diffusion, radial_distribution, read_trajectory

pytest.importorskip("MDAnalysis")
pytest.importorskip("tidynamics")


def liquid(frames=4, seed=0):
    """Return water-like frames in a triclinic cell that changes."""
    rng = np.random.default_rng(seed)
    cell = np.array([[9.0, 0, 0], [2.0, 10.0, 0], [-1.5, 1.0, 11.0]]) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    found = []
    for t in range(frames):
        oxygens = rng.random((30, 3))
        box = cell * (1 + 0.01 * t)
        x = np.concatenate([oxygens @ box, oxygens @ box + rng.normal(scale=0.5, size=(30, 3))])
        found.append(Atoms("O30H30", x, cell=box, pbc=True))
    return found


@pytest.mark.parametrize("pair", [("O", "O"), ("O", "H"), ("H", "O")])
def test_radial_distribution_is_that_of_ase(pair):
    from ase.geometry.rdf import get_rdf

    frames = liquid()
    found = radial_distribution(read_trajectory(frames, interval=1.0), *pair, last=4.0, width=0.2)
    # ASE divides by the density of each frame and of N atoms, MDAnalysis by the mean volume and N - 1 others.
    share = 30 / 29 if pair[0] == pair[1] else 1
    volumes = np.array([atoms.cell.volume for atoms in frames])
    expected = [get_rdf(atoms, 4.0, 20, elements=pair)[0] / v for atoms, v in zip(frames, volumes, strict=True)]
    np.testing.assert_allclose(found.values, share * np.mean(expected, axis=0) * volumes.mean(), rtol=1e-3, atol=1e-6)
    distances = [atoms.get_all_distances(mic=True) for atoms in frames]
    chosen = [frames[0].symbols == symbol for symbol in pair]
    near = [((d[np.ix_(*chosen)] < 4.0) & (d[np.ix_(*chosen)] > 1e-9)).sum() / 30 for d in distances]
    assert found.neighbors[-1] == pytest.approx(np.mean(near))


def test_walks_diffuse_as_they_were_made():
    """σ² = 2 D Δ along each axis, across the borders of a cell."""
    rng = np.random.default_rng(1)
    steps = rng.normal(scale=0.1, size=(8000, 100, 3))
    cell = np.array([[8.0, 0, 0], [2.0, 9.0, 0], [0, 0, 10.0]])
    walk = steps.cumsum(0)
    inside = (walk @ np.linalg.inv(cell)) % 1.0 @ cell
    cells, pbc = np.repeat(cell[None], 8000, 0), np.ones(3, dtype=bool)
    found = diffusion(Trajectory(np.full(100, 8), np.ones(100), inside, 10.0, cells=cells, pbc=pbc), "O", (0.05, 0.5))
    share = 99 / 100  # the motion of the center of mass is taken out
    assert found.coefficient == pytest.approx(5 * share, rel=0.02)  # 100 walks of 160 independent pieces
    assert 0.005 < found.error < 0.1
    lag = 100
    free = walk[:2000] - walk[:2000].mean(1, keepdims=True)
    direct = ((free[lag:] - free[:-lag]) ** 2).sum(-1).mean()
    one = diffusion(Trajectory(np.full(100, 8), np.ones(100), walk[:2000], 10.0), "O", blocks=1)
    assert one.displacements[lag] == pytest.approx(direct, rel=1e-6)
    assert np.isnan(one.error)


def test_size_of_the_box():
    """1.05e-9 m²/s for water at 298 K in 12.4 Å: 2.837 · 4.114e-21 J / (6π · 0.896e-3 Pa s · 12.4e-10 m) = 0.557e-9."""
    walk = Trajectory(np.full(2, 8), np.ones(2), np.random.default_rng(0).normal(size=(100, 2, 3)), 1.0)
    found = diffusion(walk, "O")
    assert found.without_size(12.4, 298, 0.896) - found.coefficient == pytest.approx(0.557, abs=2e-3)


def test_refusals():
    box = read_trajectory(liquid(), interval=1.0)
    with pytest.raises(ValueError, match="has no atoms 'N'; it has H, O"):
        radial_distribution(box, "O", "N")
    with pytest.raises(ValueError, match=r"between 0 and half of the cell, 4\.\d+ Å, got 9 Å"):
        radial_distribution(box, "O", "O", last=9)
    with pytest.raises(ValueError, match="width of a bin must be above 0 Å, got 0"):
        radial_distribution(box, "O", "O", width=0)
    single = read_trajectory([Atoms("OH", [[0, 0, 0], [0, 0, 1]], cell=[9] * 3, pbc=True)] * 3, interval=1.0)
    with pytest.raises(ValueError, match="has one atom 'O', which has no other beside it"):
        radial_distribution(single, "O", "O")
    free = read_trajectory([Atoms("H2", [[0, 0, 0], [0, 0, 0.7]])] * 3, interval=1.0)
    with pytest.raises(ValueError, match="has no three periodic axes"):
        radial_distribution(free, "H", "H")
    with pytest.raises(ValueError, match=r"a line from 1 to 2 ps cannot be fitted to 4 blocks"):
        diffusion(box, "O", fit=(1, 2))
    with pytest.raises(ValueError, match="has one atom, which stands still"):
        diffusion(read_trajectory([Atoms("O")] * 3, interval=1.0), "O")


def test_pictures():
    box = read_trajectory(liquid(40), interval=100.0)
    assert radial_distribution(box, "O", "H").plot().get_xlabel() == "distance, Å"
    assert len(diffusion(box, "O", blocks=1).plot().lines) == 2
