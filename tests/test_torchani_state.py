"""Reading state dicts of TorchANI: hand-made ones in both namings, and real ones where TorchANI is installed."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anipot import CELU, AEVComputer, CosineCutoff, Ensemble, SmoothCutoff
from anipot.interfaces.torchani_state import read_state_dict

SIZES = (384, 3, 2, 1)
ELEMENTS = ("H", "C", "N", "O")


def constants(aev: AEVComputer, legacy: bool) -> dict[str, Tensor]:
    if legacy:
        return {
            f"aev_computer.{n}": getattr(aev, n).float().view(1, -1)
            for n in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")
        }
    names = {"radial.eta": "EtaR", "radial.shifts": "ShfR", "angular.eta": "EtaA", "angular.zeta": "Zeta"}
    names |= {"angular.shifts": "ShfA", "angular.sections": "ShfZ"}
    return {f"potentials.nnp.aev_computer.{new}": getattr(aev, old).float() for new, old in names.items()}


def make_state(legacy: bool = False, members: int | None = 2, bias: bool = True) -> dict[str, Tensor]:
    """Return a state dict as TorchANI names it, with small networks."""
    torch.manual_seed(0)
    state = constants(AEVComputer.like_1x(), legacy)
    table = torch.full((120,), -1)
    table[torch.tensor([1, 6, 7, 8])] = torch.arange(4)
    state["species_converter.conv_tensor"] = table
    state["energy_shifter.self_energies"] = torch.tensor([-0.60095298, -38.08316124, -54.7077577, -75.19446356])
    state["aev_computer.triu_index"] = torch.zeros(4, 4)
    if not legacy:
        state["atomic_numbers"] = torch.tensor([1, 6, 7, 8])
    for m in range(members or 1):
        for element in ELEMENTS:
            for layer, (n_in, n_out) in enumerate(pairwise(SIZES)):
                final = layer == len(SIZES) - 2
                if legacy:
                    prefix = f"neural_networks.{'' if members is None else f'{m}.'}{element}.{2 * layer}"
                else:
                    prefix = (
                        f"potentials.nnp.neural_networks.{'' if members is None else f'members.{m}.'}atomics.{element}"
                    )
                    prefix += ".final_layer" if final else f".layers.{layer}"
                state[f"{prefix}.weight"] = torch.randn(n_out, n_in)
                if bias:
                    state[f"{prefix}.bias"] = torch.randn(n_out)
    return state


@pytest.mark.parametrize("members", [None, 2])
def test_both_namings(members: int | None) -> None:
    new, legacy = (read_state_dict(make_state(flag, members), name="mine") for flag in (False, True))
    assert new.elements == legacy.elements == ELEMENTS
    assert isinstance(new.head, Ensemble) == (members is not None)
    assert len(new) == len(legacy) == (members or 1)
    for ours, theirs in zip(new.head.parameters(), legacy.head.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    network = next(iter(new[0].head))
    assert network.sizes == SIZES
    assert isinstance(network.activation, CELU)
    assert network.activation.alpha == 0.1
    prefix = "neural_networks.H" if members is None else "neural_networks.0.H"
    assert torch.equal(network.linears[2].bias, make_state(True, members)[f"{prefix}.4.bias"])


def test_published_constants_come_back_exactly() -> None:
    model = read_state_dict(make_state())
    assert model.representation.ShfR.tolist() == AEVComputer.like_1x().ShfR.tolist()
    assert (model.representation.Rcr, model.representation.Rca) == (5.2, 3.5)
    assert model.shifter.self_energies.tolist() == [-0.60095298, -38.08316124, -54.7077577, -75.19446356]


def test_other_constants_are_the_decimals_that_were_meant() -> None:
    state = make_state()
    state["potentials.nnp.aev_computer.radial.eta"] = torch.tensor([19.7])
    with pytest.raises(ValueError, match=r"not of a published architecture.*activation=.*cutoff_function="):
        read_state_dict(state)
    options = {"activation": CELU(0.1), "cutoff_function": SmoothCutoff()}
    with pytest.raises(ValueError, match=r"give cutoffs=\(Rcr, Rca\)"):
        read_state_dict(state, **options)
    state["energy_shifter.self_energies"] = torch.tensor([-0.5, -37.8338334, -54.7, -75.2])
    model = read_state_dict(state, cutoffs=(5.1, 3.4), **options)
    assert model.representation.EtaR.tolist() == [19.7]
    assert (model.representation.Rcr, model.representation.Rca) == (5.1, 3.4)
    assert isinstance(model.representation.cutoff_function, SmoothCutoff)
    # seven digits and more cannot be known from float32
    assert model.shifter.self_energies.tolist() == [-0.5, torch.tensor(-37.8338334).item(), -54.7, -75.2]


def test_double_precision_is_kept() -> None:
    state = make_state()
    state["energy_shifter.self_energies"] = torch.tensor([-0.5, -37.8338334, -54.7, -75.2], dtype=torch.float64)
    assert read_state_dict(state).shifter.self_energies.tolist() == [-0.5, -37.8338334, -54.7, -75.2]


def test_without_bias_the_activation_must_be_said() -> None:
    with pytest.raises(ValueError, match=r"activation="):
        read_state_dict(make_state(bias=False))
    model = read_state_dict(make_state(bias=False), activation=torch.nn.GELU(), cutoff_function=CosineCutoff())
    assert next(iter(model[0].head)).linears[0].bias is None


def test_elements_of_numbered_networks() -> None:
    numbered = {}
    for key, value in make_state(legacy=True).items():
        for i, element in enumerate(ELEMENTS):
            key = key.replace(f".{element}.", f".{i}.")
        numbered[key] = value
    assert read_state_dict(numbered).elements == ELEMENTS
    del numbered["species_converter.conv_tensor"]
    with pytest.raises(ValueError, match=r"does not say its elements: give elements=, 4 symbols"):
        read_state_dict(numbered)
    assert read_state_dict(numbered, elements=ELEMENTS).elements == ELEMENTS


def without(state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if part not in key}


def test_what_is_not_modelled_is_named() -> None:
    state = make_state() | {
        "potentials.repulsion_xtb.y_ab": torch.zeros(4, 4),
        "potentials.dispersion_d3.covalent_radii": torch.zeros(4),
    }
    with pytest.raises(
        ValueError, match=r"does not model: potentials.repulsion_xtb, potentials.dispersion_d3 \(2 tensors"
    ):
        read_state_dict(state)
    with pytest.raises(ValueError, match=r"does not model: charge_networks.members"):
        read_state_dict(make_state() | {"potentials.nnp.charge_networks.members.0.weight": torch.zeros(1)})


def test_incomplete_state_dicts() -> None:
    state = make_state()
    with pytest.raises(ValueError, match=r"has no networks"):
        read_state_dict(without(state, "neural_networks"))
    with pytest.raises(ValueError, match=r"neither aev_computer.EtaR nor aev_computer.radial.eta"):
        read_state_dict(without(state, "aev_computer"))
    with pytest.raises(ValueError, match=r"no energy_shifter.self_energies"):
        read_state_dict(without(state, "self_energies"))
    with pytest.raises(ValueError, match=r"has networks for H, N, O; expected elements are H, C, N, O"):
        read_state_dict(without(state, ".C."))
    with pytest.raises(ValueError, match=r"member 1, C: weights are missing"):
        read_state_dict(without(state, "members.1.atomics.C.layers.0.weight"))
    with pytest.raises(ValueError, match=r"expected 0 to 0"):
        read_state_dict(without(state, "members.0."))
    with pytest.raises(ValueError, match=r"made for H, C, N, O, in this order; given were C, H, N, O"):
        read_state_dict(state, elements=["C", "H", "N", "O"])
    with pytest.raises(ValueError, match=r"'epoch', a int"):
        read_state_dict({"epoch": 3})


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match=r"no file .*model.pt"):
        read_state_dict(path)
    torch.save(make_state(), path)
    assert read_state_dict(path).details["source"] == f"TorchANI state dict {path}"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model.pt is not a state dict that can be read"):
        read_state_dict(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"model.pt holds a list; expected a state dict"):
        read_state_dict(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"a": Evil()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"without running code"):
        read_state_dict(tmp_path / "model.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "members"), [("ani2x", 2), ("ani1x", 1)])
def test_real_state_dicts(kind: str, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHANI_NO_WARN_EXTENSIONS", "1")
    pytest.importorskip("torchani")
    from torchani.arch import Assembler
    from torchani.utils import SYMBOLS_1X, SYMBOLS_2X

    torch.manual_seed(0)
    asm = Assembler()
    asm.set_symbols(SYMBOLS_2X if kind == "ani2x" else SYMBOLS_1X)
    asm.set_global_cutoff_fn("cosine")
    asm.set_aev_computer(angular=kind, radial=kind)
    asm.set_atomic_networks(ctor=kind)
    asm.set_neighborlist("all_pairs")
    asm.set_gsaes_as_self_energies("wb97x-631gd")
    theirs = asm.assemble(members)
    xyz = [[0.03, 0.006, 0.01], [-0.8, 0.4, -0.3], [-0.7, -0.8, 0.2], [0.5, 0.5, 0.8], [0.7, -0.2, -0.9]]
    methane = torch.tensor([[6, 1, 1, 1, 1]]), torch.tensor([xyz], dtype=torch.float64)
    states = theirs.state_dict(), theirs.legacy_state_dict()
    expected = theirs.double()(methane).energies.item()  # with constants that were rounded to float32
    for state in states:
        ours = read_state_dict(state)
        assert len(ours) == members
        assert ours.double()(methane).energies.item() == pytest.approx(expected, abs=2e-7)
