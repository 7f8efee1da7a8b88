"""Models of SchNetPack give here what they give there."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import anipot
from anipot.interfaces.schnetpack import ENERGY_UNITS, read_model

SEEDED = ("schnet_fresh2", "schnet_fresh3", "painn_fresh2", "painn_fresh3")
TRAINED = ("md_ethanol", "painn_ethanol")


@pytest.fixture(scope="session")
def peers(shared: Path) -> Path:
    folder = shared / "peers" / "schnetpack"
    if not folder.is_dir():
        pytest.skip(f"needs the models of SchNetPack; none in {folder}")
    return folder


def expected(folder: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(folder / name) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fib"}


@pytest.mark.parametrize("file", ["model.pt", "state_dict.pt"])
@pytest.mark.parametrize("name", SEEDED + TRAINED)
def test_molecules(peers: Path, name: str, file: str) -> None:
    unit = "kcal/mol" if name in TRAINED else "hartree"
    model = read_model(peers / name / file, energy_unit=unit).double()
    e = expected(peers / name, "expected.npz")
    result = anipot.single_point(model, e["numbers"], e["positions"])
    factor = ENERGY_UNITS[unit]
    offset = model.shifter.sae(model.converter.convert(e["numbers"]))
    network = (result.energies - offset) * factor
    torch.testing.assert_close(network, e["energies_network_f64"], rtol=1e-9, atol=1e-8)
    torch.testing.assert_close(result.energies * factor, e["energies_f64"], rtol=1e-9, atol=0)
    scale = float(e["forces_f64"].abs().max())
    torch.testing.assert_close(result.forces * factor, e["forces_f64"], rtol=0, atol=1e-9 * scale)
    features = model.representation((model.converter.convert(e["numbers"]), e["positions"])).features
    torch.testing.assert_close(features, e["scalar_representation_f64"], rtol=1e-9, atol=1e-9)
    rough = anipot.single_point(model.float(), e["numbers"], e["positions"].float())
    atol = 1e-5 * float(e["energies_network_f64"].abs().max())
    torch.testing.assert_close((rough.energies - offset) * factor, e["energies_network_f64"], rtol=0, atol=atol)


@pytest.mark.parametrize("name", SEEDED)
def test_periodic_cells(peers: Path, name: str) -> None:
    model = read_model(peers / name / "model.pt", energy_unit="Hartree", elements=["H", "C", "N", "O"]).double()
    e = expected(peers / name, "expected_periodic.npz")
    result = anipot.single_point(model, e["numbers"], e["positions"], e["cell"], e["pbc"].bool(), stress=True)
    torch.testing.assert_close(result.energies, e["energies_f64"], rtol=1e-9, atol=0)
    torch.testing.assert_close(result.forces, e["forces_f64"], rtol=0, atol=1e-9)
    # SchNetPack divides by the determinant with its sign: minus the stress of a left-handed cell.
    sign = torch.linalg.det(e["cell"]).sign()[:, None, None]
    full = torch.tensor([b for b in range(len(e["pbc"])) if e["pbc"][b].all()])
    torch.testing.assert_close(result.stress[full], (sign * e["stress_f64"])[full], rtol=0, atol=1e-10)


@pytest.mark.parametrize("file", ["model.pt", "state_dict.pt"])
def test_so3net_is_refused_by_name(peers: Path, file: str) -> None:
    with pytest.raises(ValueError, match=r"si16.*SO3net; known are SchNet and PaiNN"):
        read_model(peers / "si16" / file, energy_unit="eV")


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    target = tmp_path / "touched"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (target,))

    torch.save({"representation": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"bomb\.pt"):
        read_model(tmp_path / "bomb.pt", energy_unit="eV")
    assert not target.exists()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"plain\.pkl cannot be read"):
        read_model(tmp_path / "plain.pkl", energy_unit="eV")
    assert not target.exists()


def test_what_is_missing_is_said(peers: Path, tmp_path: Path) -> None:
    path = peers / "schnet_fresh2" / "state_dict.pt"
    with pytest.raises(FileNotFoundError, match="no file"):
        read_model(tmp_path / "nothing.pt", energy_unit="eV")
    with pytest.raises(ValueError, match=r"unknown length unit 'mile'"):
        read_model(path, energy_unit="eV", length_unit="mile")
    with pytest.raises(ValueError, match=r"no embedding of Fm; it has 99 elements"):
        read_model(path, energy_unit="eV", elements=["Fm"])
    weights = torch.load(path, weights_only=True)
    torch.save({**weights, "representation.electronic_embeddings.0.weight": torch.ones(2)}, tmp_path / "more.pt")
    with pytest.raises(ValueError, match=r"more\.pt has parts that are not known here: .*electronic_embeddings"):
        read_model(tmp_path / "more.pt", energy_unit="eV")
    weights.pop("representation.interactions.1.in2f.weight")
    torch.save(weights, tmp_path / "less.pt")
    with pytest.raises(ValueError, match=r"less\.pt is not a complete model.*interactions\.1\.in2f"):
        read_model(tmp_path / "less.pt", energy_unit="eV")


def test_length_unit(peers: Path) -> None:
    e = expected(peers / "schnet_fresh2", "expected.npz")
    model = read_model(peers / "schnet_fresh2" / "state_dict.pt", energy_unit="hartree", length_unit="bohr").double()
    x = e["positions"] * anipot.units.BOHR_TO_ANGSTROM
    torch.testing.assert_close(model((e["numbers"], x)).energies, e["energies_f64"], rtol=1e-9, atol=0)


def test_an_element_without_weights_is_named(peers: Path) -> None:
    model = read_model(peers / "painn_fresh2" / "state_dict.pt", energy_unit="hartree", elements=["H", "C"])
    with pytest.raises(ValueError, match=r"molecule 0, atom 1 is O \(atomic number 8\); this model knows H, C"):
        model((torch.tensor([[1, 8]]), torch.rand(1, 2, 3)))
