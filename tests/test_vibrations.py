"""Normal modes, thermochemistry and spectra against ASE, and systems for which the number of modes is not 3n − 6."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from ase.vibrations import Infrared, Vibrations
from contracts import without_properties

import anipot
from anipot.spectroscopy import broadened, symmetry_of
from anipot.spectroscopy.rigid import is_linear
from anipot.units import HARTREE_TO_EV

#: The small model bends CO2, HCN and C2H2; N2O is its linear molecule with a bending mode.
NAMES = ["H2O", "N2O", "N2", "NH3", "CH3OH", "H2", "N"]


@pytest.fixture(scope="module")
def model():
    return anipot.load(dtype=torch.float64)


@pytest.fixture(scope="module")
def relaxed(model):
    """Return modes of several molecules, computed as one batch."""
    return dict(zip(NAMES, anipot.normal_modes(list(map(molecule, NAMES)), model, optimize=True), strict=True))


@pytest.fixture(scope="module")
def dipole_model(model):
    """Return the same potential with a dipole of random charges, which depend on the surroundings."""
    torch.manual_seed(0)
    charges = anipot.AtomicNetwork((model.representation.num_features, 8, 1), anipot.CELU(0.1))
    heads = {"dipole": anipot.DipoleMoment(charges, model.elements)}
    parts = (model.elements, model.representation, model.head, model.shifter)
    return anipot.Potential(*parts, properties=heads).double()


@pytest.mark.parametrize("name", NAMES)
def test_number_of_modes(relaxed, name):
    n = len(molecule(name))
    lost = {"N": 3, "N2O": 5, "N2": 5, "H2": 5}.get(name, 6)
    assert relaxed[name].modes.shape == (3 * n - lost, n, 3)
    assert (relaxed[name].frequencies > 300).all()
    assert relaxed[name].is_linear == (lost == 5)


@pytest.mark.parametrize("name", ["H2O", "N2O", "CH3OH"])
def test_like_finite_differences_of_ase(model, relaxed, tmp_path, name):
    modes = relaxed[name]
    atoms = modes.atoms.copy()
    atoms.calc = model.ase()
    numeric = Vibrations(atoms, name=str(tmp_path / "vib"), delta=2e-3, nfree=4)
    numeric.run()
    expected = numeric.get_frequencies().real[-len(modes.frequencies) :]
    np.testing.assert_allclose(modes.frequencies, expected, atol=0.05)
    np.testing.assert_allclose(modes.to_ase().get_frequencies().real[-len(expected) :], expected, atol=0.05)
    assert modes.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_masses_and_constants_are_those_of_the_modes(relaxed):
    modes = relaxed["CH3OH"]
    np.testing.assert_allclose(np.linalg.norm(modes.modes.reshape(len(modes.modes), -1), axis=1), 1)
    flat = modes.modes.reshape(len(modes.modes), -1)
    curvature = np.einsum("mi,ij,mj->m", flat, modes.hessian, flat) * HARTREE_TO_EV  # eV/Å²
    np.testing.assert_allclose(modes.force_constants, curvature * units._e * 1e20 / 100, rtol=1e-6)
    masses = modes.atoms.get_masses()
    momentum = np.einsum("a,max->mx", masses, modes.modes)
    np.testing.assert_allclose(momentum, 0, atol=1e-9)
    # E = ½ k x² with x along the mode, m = reduced mass: ω² = k/m.
    omega = 2 * np.pi * modes.frequencies * units._c * 100
    np.testing.assert_allclose(modes.force_constants * 100, omega**2 * modes.reduced_masses * units._amu, rtol=1e-6)


def test_a_padded_batch_gives_the_same(model, relaxed):
    found = [relaxed[name] for name in ("H2O", "CH3OH", "N")]
    pairs = [(torch.tensor(one.atoms.numbers), torch.tensor(one.atoms.positions)) for one in found]
    species, coordinates = anipot.pad(pairs)
    for one, other in zip(found, anipot.normal_modes((species, coordinates), model), strict=True):
        np.testing.assert_allclose(other.frequencies, one.frequencies, atol=1e-6)


def test_batches_are_bounded(model, relaxed, monkeypatch):
    monkeypatch.setattr("anipot.spectroscopy.hessians.BATCH_BYTES", 8 * 18**2)
    frames = [relaxed[name].atoms for name in NAMES]
    for name, one in zip(NAMES, anipot.normal_modes(frames, model), strict=True):
        np.testing.assert_allclose(one.frequencies, relaxed[name].frequencies, atol=1e-6)


def test_molecules_and_crystals_in_one_batch(model, relaxed):
    from ase.build import bulk

    diamond, ammonia = bulk("C").repeat((2, 2, 1)), relaxed["NH3"].atoms
    alone = anipot.normal_modes(diamond, model)[0]
    together = anipot.normal_modes([ammonia, diamond, relaxed["CH3OH"].atoms], model)
    np.testing.assert_allclose(together[1].frequencies, alone.frequencies, atol=1e-3)
    np.testing.assert_allclose(together[0].frequencies, relaxed["NH3"].frequencies, atol=1e-6)


def test_a_molecule_in_a_box_turns(model, relaxed):
    """One that does not reach its images has lost its rotations, periodic or not."""
    boxed = relaxed["NH3"].atoms.copy()
    boxed.set_cell([12, 12, 12])
    boxed.center()
    boxed.pbc = True
    cut = boxed.copy()
    cut.translate([6, 6, 0.2])
    cut.wrap()
    assert np.ptp(cut.positions, axis=0).max() > 10
    for found in anipot.normal_modes([boxed, cut], model):
        np.testing.assert_allclose(found.frequencies, relaxed["NH3"].frequencies, atol=1e-4)


def test_turned_and_moved(model, relaxed):
    atoms = relaxed["CH3OH"].atoms.copy()
    atoms.rotate(50, (1, 2, 3))
    atoms.translate([20, -3, 100])
    found = anipot.normal_modes(atoms, model)[0]
    np.testing.assert_allclose(found.frequencies, relaxed["CH3OH"].frequencies, atol=1e-4)


def test_isotopes(model, relaxed):
    """The ratio of H2 and D2 is that of the roots of their masses; of HDO, the product rule of Teller and Redlich."""
    hydrogen = relaxed["H2"]
    heavy = anipot.normal_modes(hydrogen.atoms, model, masses=[2.016, 2.016])[0]
    assert heavy.frequencies[0] / hydrogen.frequencies[0] == pytest.approx((1.008 / 2.016) ** 0.5, rel=1e-9)
    light = relaxed["H2O"]
    hdo, again = anipot.normal_modes([light.atoms] * 2, model, masses=[{1: 2.0141}, None])
    np.testing.assert_allclose(again.frequencies, light.frequencies, atol=1e-9)

    def rigid(modes):
        inertia = modes.atoms.get_moments_of_inertia().prod()
        return modes.atoms.get_masses().sum() ** 1.5 * inertia**0.5 / modes.atoms.get_masses().prod() ** 1.5

    ratio = (hdo.frequencies / light.frequencies).prod()
    # Translations and rotations are projected out, which is exact where forces vanish.
    assert ratio == pytest.approx(rigid(hdo) / rigid(light), rel=1e-4)
    assert symmetry_of(hdo.atoms).number == 1
    common = anipot.normal_modes(light.atoms, model, masses="most_common")[0]
    assert common.frequencies == pytest.approx(light.frequencies, rel=2e-4)
    assert (common.frequencies > light.frequencies).all()


@pytest.mark.parametrize(("fixed", "modes"), [([0], 6), ([0, 1], 5), ([0, 1, 2], 3)])
def test_fixed_atoms(model, relaxed, fixed, modes):
    """Held at one atom a molecule turns about it, at two about the line through them, at three not at all."""
    atoms = relaxed["NH3"].atoms.copy()
    atoms.set_constraint(FixAtoms(fixed))
    found = anipot.normal_modes(atoms, model)[0]
    assert found.modes.shape == (modes, 4, 3)
    assert (found.modes[:, fixed] == 0).all()
    assert (found.frequencies > 300).all()
    expected = found.to_ase().get_frequencies().real[-modes:]
    np.testing.assert_allclose(found.frequencies, expected, rtol=1e-5)
    heat = found.thermochemistry(400)
    assert heat.kind == "harmonic"
    assert heat.free_energy == pytest.approx(
        HarmonicThermo(found.frequencies * units.invcm, found.energy).get_helmholtz_energy(400, verbose=False),
        abs=1e-12,
    )


def test_two_molecules_apart(model, relaxed):
    """Each vibrates as if it were alone; what they do against each other is no vibration."""
    pair = relaxed["H2O"].atoms.copy()
    other = relaxed["N2O"].atoms.copy()
    other.translate([30, 0, 0])
    pair += other
    with pytest.warns(UserWarning, match=r"system 0 \(H2N2O2\) falls into 2 parts of 3, 3 atoms"):
        found = anipot.normal_modes(pair, model)[0]
    expected = np.sort([*relaxed["H2O"].frequencies, *relaxed["N2O"].frequencies])
    np.testing.assert_allclose(found.frequencies, expected, atol=1e-6)
    with pytest.raises(ValueError, match="falls into 2 parts that do not feel each other"):
        found.thermochemistry()


def test_not_a_minimum(model):
    """Flat ammonia is the transition state of its inversion: one imaginary mode, which is named."""
    flat = Atoms("NH3", [[0, 0, 0], *([np.cos(a), np.sin(a), 0] for a in 2 * np.pi * np.arange(3) / 3)])
    found = anipot.normal_modes(flat, model, optimize=True)[0]
    assert found.imaginary.tolist() == [0]
    assert found.frequencies[0] < -500
    assert "imaginary: N0, H1, H2, H3" in found.describe(0) or "imaginary: H1, H2, H3" in found.describe(0)
    assert f"{-found.frequencies[0]:.1f}i" in str(found)
    with pytest.raises(ValueError, match=r"H3N is no minimum: mode 0, \d+\.\di cm\^-1 \(imaginary:"):
        found.thermochemistry()
    heat = found.thermochemistry(ignore_imaginary=True, symmetry_number=6)
    assert heat.zero_point_energy == pytest.approx(found.zero_point_energy, abs=1e-12)
    with pytest.warns(UserWarning, match=r"system 0 \(H2O\) is no stationary point: forces reach \d+\.\d+ eV/Å"):
        anipot.normal_modes(Atoms("OH2", [[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0]]), model)


def test_members(model, relaxed):
    """Their curvatures along the modes average to that of the ensemble."""
    found = anipot.normal_modes(relaxed["CH3OH"].atoms, model, members=True)[0]
    assert found.members.shape == (len(model), len(found.frequencies))
    squares = np.sign(found.members) * found.members**2
    np.testing.assert_allclose(squares.mean(0), found.frequencies**2, rtol=1e-6)
    np.testing.assert_allclose(found.frequencies_std, found.members.std(axis=0, ddof=1))
    assert 0 < found.zero_point_energy_std < 0.1
    with pytest.raises(ValueError, match="members=True needs an ensemble"):
        anipot.normal_modes(relaxed["H2"].atoms, model[0], members=True)


@pytest.mark.parametrize(
    ("name", "geometry", "sigma"),
    [("H2O", "nonlinear", 2), ("N2O", "linear", 1), ("N2", "linear", 2), ("NH3", "nonlinear", 3)],
)
def test_thermochemistry_is_that_of_ase(relaxed, name, geometry, sigma):
    pytest.importorskip("pymsym")
    modes = relaxed[name]
    ideal = IdealGasThermo(modes.to_ase().get_energies(), geometry, modes.energy, modes.atoms, sigma, spin=0)
    heat = modes.thermochemistry(500, 2e5)
    assert (heat.geometry, heat.symmetry_number) == (geometry, sigma)
    # ASE's own frequencies keep translations and rotations, which mix in a little where forces do not vanish.
    assert heat.enthalpy == pytest.approx(ideal.get_enthalpy(500, verbose=False), abs=2e-6)
    assert heat.entropy == pytest.approx(ideal.get_entropy(500, 2e5, verbose=False), abs=1e-8)
    assert heat.free_energy == pytest.approx(ideal.get_gibbs_energy(500, 2e5, verbose=False), abs=5e-6)
    ours = IdealGasThermo(modes.frequencies * units.invcm, geometry, modes.energy, modes.atoms, sigma, spin=0)
    assert heat.free_energy == pytest.approx(ours.get_gibbs_energy(500, 2e5, verbose=False), abs=1e-10)


def test_thermochemistry_of_an_atom(relaxed):
    """Sackur and Tetrode, and the spin of N (quartet); NIST-JANAF gives 153.30 J/(mol K)."""
    heat = relaxed["N"].thermochemistry(298.15, 1e5, spin=1.5)
    assert heat.entropy / (units.J / units.mol) == pytest.approx(153.30, abs=0.01)
    assert heat.enthalpy - heat.potential_energy == pytest.approx(2.5 * units.kB * 298.15, rel=1e-9)


@pytest.mark.filterwarnings("ignore:system 0:UserWarning")
@pytest.mark.parametrize(
    ("name", "observed", "entropy"),
    [
        ("H2O", [1595, 3657, 3756], 188.834),
        ("CO2", [667, 667, 1333, 2349], 213.795),
        ("NH3", [950, 1627, 1627, 3337, 3444, 3444], 192.774),
        ("CH4", [1306, 1306, 1306, 1534, 1534, 2917, 3019, 3019, 3019], 186.251),
        ("C2H4", [826, 943, 949, 1023, 1236, 1342, 1444, 1623, 2989, 3026, 3103, 3106], 219.330),
    ],
)
def test_entropies_are_those_of_tables(model, name, observed, entropy):
    """With observed frequencies: NIST-JANAF, J/(mol K) at 298.15 K and 1 bar, which also knows that rotors stretch."""
    pytest.importorskip("pymsym")
    modes = anipot.normal_modes(molecule(name), model)[0]
    heat = replace(modes, frequencies=np.array(observed, dtype=float)).thermochemistry(298.15, 1e5)
    assert heat.entropy / (units.J / units.mol) == pytest.approx(entropy, abs=0.35)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spin": -0.5}, "spin must be 0, 0.5, 1, 1.5, …, got -0.5"),
        ({"spin": 0.3}, "got 0.3"),
        ({"spin": float("nan")}, "got nan"),
        ({"symmetry_number": 0}, "symmetry_number must be 1, 2, 3, …, got 0"),
        ({"symmetry_number": 1.5}, "got 1.5"),
        ({"temperature": 0}, "temperature must be positive"),
    ],
)
def test_thermochemistry_of_what_cannot_be(relaxed, options, text):
    with pytest.raises(ValueError, match=text):
        relaxed["H2O"].thermochemistry(**options)


def test_low_modes(model, relaxed):
    modes = relaxed["CH3OH"]
    soft = replace(modes, frequencies=np.array([20.0, *modes.frequencies[1:]]))
    assert soft.low.tolist() == [0]
    assert soft.describe(0).startswith("low, a hindered rotation?")
    entropies = {
        how: soft.thermochemistry(low_modes=how, symmetry_number=1).entropy for how in ("harmonic", "raised", "rrho")
    }
    at_100 = replace(modes, frequencies=np.array([100.0, *modes.frequencies[1:]]))
    assert entropies["raised"] == at_100.thermochemistry(symmetry_number=1).entropy
    assert entropies["raised"] < entropies["rrho"] < entropies["harmonic"]
    with pytest.raises(ValueError, match="low_modes must be one of"):
        modes.thermochemistry(low_modes="wrong")
    with pytest.raises(ValueError, match="temperature must be positive"):
        modes.thermochemistry(-1)


@pytest.mark.parametrize(
    ("name", "group", "number"),
    [("CH4", "Td", 12), ("C6H6", "D6h", 12), ("C2H6", "D3d", 6), ("HCN", "Cinfv", 1), ("C2H2", "Dinfh", 2)],
)  # fmt: skip
def test_symmetry(name, group, number):
    pytest.importorskip("pymsym")
    atoms = molecule(name)
    assert symmetry_of(atoms) == (group, number)
    atoms.positions += np.random.default_rng(0).normal(scale=1e-3, size=atoms.positions.shape)  # as relaxed as it gets
    assert symmetry_of(atoms).number == number


def test_rotation_groups_beyond_tables():
    """S4 has one twofold rotation (tables that list 4 for it are wrong)."""
    pytest.importorskip("pymsym")
    corners = np.array([[1.0, 0.4, 0.7], [1.9, -0.9, 0.2]])
    s4 = np.array([[0, -1, 0], [1, 0, 0], [0, 0, -1]])
    points = np.concatenate([corners @ np.linalg.matrix_power(s4, i).T for i in range(4)])
    assert symmetry_of(Atoms("C" + "FH" * 4, [[0, 0, 0], *points])) == ("S4", 2)


def test_bent_is_not_linear():
    assert is_linear(np.array([[-1.16, 0, 0], [0, 5e-4, 0], [1.16, 0, 0]]))
    assert not is_linear(np.array([[-1.16, 0, 0], [0, 0.05, 0], [1.16, 0, 0]]))
    assert not is_linear(np.zeros((1, 3)))


def test_almost_straight_keeps_its_modes(model, relaxed):
    """A relaxation that stopped a little early must not turn a vibration of N2O into a rotation."""
    atoms = relaxed["N2O"].atoms.copy()
    atoms.positions += 2e-4 * np.random.default_rng(0).normal(size=(3, 3))
    found = anipot.normal_modes(atoms, model)[0]
    assert len(found.frequencies) == 4
    np.testing.assert_allclose(found.frequencies, relaxed["N2O"].frequencies, atol=2)


def test_crystal_at_gamma(model):
    from ase.build import bulk

    found = anipot.normal_modes(bulk("C", cubic=True), model)[0]
    assert len(found.frequencies) == 21  # translations are out, and a crystal does not turn
    assert found.thermochemistry().kind == "harmonic"


@pytest.mark.parametrize("name", ["H2O", "N2O", "CH3OH"])
def test_intensities_are_those_of_ase(dipole_model, relaxed, tmp_path, name):
    """Mode by mode against finite differences; degenerate modes of N2O share their intensity in any way."""
    found = anipot.normal_modes(relaxed[name].atoms, dipole_model)[0]
    atoms = relaxed[name].atoms.copy()
    atoms.calc = dipole_model.ase()
    numeric = Infrared(atoms, name=str(tmp_path / "ir"), delta=2e-3, nfree=4)
    numeric.run()
    numeric.read()
    expected = numeric.intensities[-len(found.frequencies) :] * 42.2561  # D²/(Å² u) in km/mol
    ours = found.intensities
    if name == "N2O":
        expected, ours = ([values[:2].sum(), *values[2:]] for values in (expected, ours))
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-3 * max(expected))


def test_infrared_wants_a_dipole(model, dipole_model):
    with pytest.raises(ValueError, match="need a property head named 'dipole'; this model has none"):
        anipot.normal_modes(molecule("H2O"), without_properties(model), infrared=True)
    box = molecule("H2O", cell=[9, 9, 9], pbc=True)
    with pytest.raises(ValueError, match="system 0 is periodic"):
        anipot.normal_modes(box, dipole_model, infrared=True)


@pytest.mark.parametrize("shape", ["lorentzian", "gaussian"])
def test_lines_have_width_and_area(shape):
    grid = np.arange(-20000, 20000, 0.5)
    curve = broadened([0.0], [3.0], grid, 12.0, shape)
    assert curve.sum() * 0.5 == pytest.approx(3.0, rel=1e-3)
    above = grid[curve > curve.max() / 2]
    assert above[-1] - above[0] == pytest.approx(12.0, abs=1.0)
    with pytest.raises(ValueError, match="shape must be one of"):
        broadened([0.0], [1.0], grid, 1.0, "square")
    with pytest.raises(ValueError, match="width must be positive"):
        broadened([0.0], [1.0], grid, 0.0)


def test_spectrum_and_plot(model, dipole_model, relaxed):
    found = anipot.normal_modes(relaxed["H2O"].atoms, dipole_model)[0]
    spectrum = found.spectrum(20)
    area = np.log(10) / 100 * spectrum.values.sum()  # km/mol again
    assert area == pytest.approx(spectrum.heights.sum(), rel=0.05)
    pytest.importorskip("matplotlib")
    plain = anipot.normal_modes(relaxed["CH3OH"].atoms, without_properties(model))[0]
    assert plain.plot().get_ylabel() == "density of modes, cm"
    assert spectrum.plot().get_ylabel() == "molar absorption, L/(mol cm)"


def test_animation(relaxed, tmp_path):
    from ase.io import read

    modes = relaxed["CH3OH"]
    frames = modes.animate(3, tmp_path / "mode.xyz", frames=12, amplitude=0.3)
    again = read(tmp_path / "mode.xyz", ":")
    assert len(again) == len(frames) == 12
    away = np.linalg.norm([a.positions - modes.atoms.positions for a in again], axis=-1)
    assert away.max() == pytest.approx(0.3, abs=1e-6)
    assert again[0].info["frequency_per_cm"] == pytest.approx(modes.frequencies[3])
    np.testing.assert_allclose(frames[3].positions + frames[9].positions, 2 * modes.atoms.positions, atol=1e-9)
    with pytest.raises(IndexError, match="there is no mode 12; there are 12"):
        modes.animate(12)


#: A system with an atom nowhere.
LOST = Atoms("H2", [[0, 0, 0], [0, 0, np.nan]])
#: Two atoms in one place.
COLLAPSED = Atoms("H2", np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("systems", "options", "error", "text"),
    [
        ([molecule("H2O"), "water"], {}, TypeError, "system 1 is a str"),
        ([Atoms()], {}, ValueError, "system 0 has no atoms"),
        ([molecule("H2O")], {"masses": {3: 2.0}}, ValueError, "system 0: masses name atom 3, but there are 3"),
        ([molecule("H2O")], {"masses": [1.0, 2.0]}, ValueError, r"system 0: masses have the shape \(2,\)"),
        ([molecule("H2O")], {"masses": {0: 0.0}}, ValueError, "atom 0 has the mass 0.0 u"),
        ([molecule("H2O")], {"masses": "light"}, ValueError, "got 'light'"),
        ([molecule("H2O")] * 3, {"masses": [None, None]}, ValueError, "masses for 2 systems, but 3 systems"),
        ([molecule("C6H6"), molecule("LiH")], {}, ValueError, r"system 1 \(HLi\): atom 0 is Li; this model knows H"),
        ([molecule("H2O"), COLLAPSED], {}, ValueError, "system 1: atoms 0 and 1 stand on one spot"),
        ([molecule("H2O"), molecule("NH3"), LOST], {}, ValueError, r"system 2 \(H2\): atom 1 stands at"),
    ],
)  # fmt: skip
def test_bad_input(model, systems, options, error, text):
    with pytest.raises(error, match=text):
        anipot.normal_modes(systems, model, **options)


def test_bad_constraints(model):
    water = molecule("H2O")
    water.set_constraint(FixAtoms([0, 1, 2]))
    with pytest.raises(ValueError, match=r"system 0 \(H2O\): all atoms are fixed"):
        anipot.normal_modes(water, model)
    water.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="the constraint FixBondLengths is not supported"):
        anipot.normal_modes(water, model)
    charged = molecule("H2O")
    charged.info["charge"] = 1
    with pytest.raises(ValueError, match=r"system 0 \(H2O\): molecule 0 has a total charge of 1"):
        anipot.normal_modes(charged, model)


def test_view(relaxed):
    pytest.importorskip("py3Dmol")
    view = relaxed["H2O"].view(1, frames=8)
    html = view.write_html()
    assert "animate" in html
    assert "addModelsAsFrames" in html


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("pymsym", "thermo", lambda modes, model: modes.thermochemistry()),
        ("py3Dmol", "notebook", lambda modes, model: modes.view(0)),
        ("phonopy", "phonons", lambda modes, model: anipot.phonons(modes.atoms, model)),
    ],
)
def test_what_is_missing_is_named(relaxed, model, monkeypatch, library, extra, use):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install anipot\[{extra}\]"):
        use(relaxed["H2O"], model)
    assert relaxed["H2O"].thermochemistry(symmetry_number=2).point_group is None


def test_what_does_not_relax_is_named(model, monkeypatch):
    monkeypatch.setattr("anipot.spectroscopy.analysis.optimize_all", partial(anipot.optimize, steps=1))
    with pytest.raises(RuntimeError, match=r"system 1 \(H2O\) did not relax to 0.001 eV/Å: "):
        anipot.normal_modes([molecule("N"), molecule("H2O")], model, optimize=True)
