"""Whatever happens to a model between two calls, the second is about the model as it is then."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from contracts import ELEMENTS, assert_same, by_torch, molecule, natively, needs_kernels
from torch import Tensor, nn
from torch.nn.utils import prune

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Potential
from anipot.engine import engine_of

pytestmark = needs_kernels


def build(seed: int = 0) -> Potential:
    """Two members; hidden layers are square, with an activation of their own each."""
    torch.manual_seed(seed)
    members = [ANIModel([AtomicNetwork((384, 16, 16, 1), CELU(0.1)) for _ in ELEMENTS]) for _ in range(2)]
    shifter = EnergyShifter([-0.6, -38.1, -54.7, -75.2])
    return Potential(ELEMENTS, AEVComputer.like_1x(), Ensemble(members), shifter).double()


def batch() -> tuple[Tensor, Tensor]:
    numbers, x = molecule(11, 1)
    assert set(numbers.tolist()) == {1, 6, 7, 8}
    return numbers[None], x[None]


def weight(model: Potential) -> Tensor:
    """One of the weights: of the second member, the second element, the square layer."""
    return model.head[1][1].linears[1].weight


def step(model: Potential) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(batch()).energies.sum().backward()
    optimizer.step()


def step_without_graph(model: Potential) -> None:
    with torch.no_grad():
        weight(model).mul_(1.5)


def other_representation(model: Potential) -> None:
    model.representation = AEVComputer(4.9, 3.2, 12.0, [0.1] * 16, 6.0, 20.0, [0.9] * 4, [0.4] * 8, 4)


def assign(path: str, make: Callable[[Any], Any]) -> Callable[[Potential], None]:
    """Set the attribute at ``path``, whose numbers are items, to what ``make`` makes of its value."""

    def change(model: Potential) -> None:
        *parents, last = path.split(".")
        owner: Any = model
        for name in parents:
            owner = owner[int(name)] if name.isdigit() else getattr(owner, name)
        if last.isdigit():
            owner[int(last)] = make(owner[int(last)])
        else:
            setattr(owner, last, make(getattr(owner, last)))

    return change


def twice(model: Potential) -> None:
    """Give memory back and take it again: the new values may stand where the old ones stood."""
    for scale in (3.0, 0.5):
        model.shifter.self_energies = model.shifter.self_energies * scale
        model.representation.ShfR = model.representation.ShfR.flip(0) * 1.0
        linear = model.head[0][0].linears[0]
        linear.weight = nn.Parameter(linear.weight.detach() * scale)


def hidden(in_features: int = 16, out_features: int = 16) -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(in_features, out_features).double()


def wider(model: Potential) -> None:
    linears = model.head[0][3].linears
    linears[0], linears[1] = hidden(384, 21), hidden(21, 16)


def inserted(model: Potential) -> None:
    model.head[0][2].linears.insert(1, hidden())


def without_bias(model: Potential) -> None:
    model.head[1][0].linears[0].bias = None


def other_constants(model: Potential) -> None:
    """As many features from other numbers of constants."""
    aev = model.representation
    aev.EtaA, aev.ShfA = torch.tensor([8.0, 6.0]).double(), torch.tensor([0.9, 2.0]).double()


def other_cutoff_function(model: Potential) -> None:
    model.representation.cutoff_function = anipot.SmoothCutoff()


def shared_activation(model: Potential) -> None:
    model.head[0][0].activation = model.head[0][1].activation = nn.Tanh()


def other_part(name: str) -> Callable[[Potential], None]:
    return lambda model: setattr(model, name, getattr(build(3), name))


def narrowed(model: Potential) -> None:
    """Fewer hidden values, which stand where they stood."""
    linears = model.head[0][1].linears
    for part in (linears[0].weight, linears[0].bias):
        part.data = part.data[:9]
    linears[1].weight.data = linears[1].weight.data[:, :9]


def tied(model: Potential) -> None:
    model.head[0][0] = model.head[1][0]


CHANGES: dict[str, Callable[[Potential], Any]] = {
    "optimizer": step,
    "copy_": lambda model: weight(model).data.copy_(torch.randn(16, 16)),
    "one number": lambda model: weight(model).data.__setitem__((0, 0), 3.0),
    "one bias": lambda model: model.head[0][3].linears[2].bias.data.add_(1.0),
    "numpy": lambda model: np.copyto(weight(model).detach().numpy(), 0.25),
    "new data": lambda model: setattr(weight(model), "data", torch.randn(16, 16).double()),
    "data of a view": lambda model: setattr(weight(model), "data", torch.randn(16, 32).double()[:, ::2]),
    "narrowed": narrowed,
    "transposed": lambda model: setattr(weight(model), "data", weight(model).data.t()),
    "load_state_dict": lambda model: model.load_state_dict(build(1).state_dict()),
    "load_state_dict, assigned": lambda model: model.load_state_dict(build(1).state_dict(), assign=True),
    "parameter": assign("head.1.1.linears.1.weight", lambda w: nn.Parameter(2 * w.detach())),
    "without a graph": step_without_graph,
    "layer": assign("head.0.2.linears.1", lambda _: hidden()),
    "first layer": assign("head.0.2.linears.0", lambda _: hidden(384)),
    "wider": wider,
    "inserted": inserted,
    "without bias": without_bias,
    "activation": assign("head.0.0.activation", lambda _: nn.SiLU()),
    "shared activation": shared_activation,
    "alpha": assign("head.1.2.activation.alpha", lambda _: 0.7),
    "network": assign("head.1.3", lambda _: nn.Sequential(hidden(384, 5), nn.Tanh(), hidden(5, 1))),
    "tied": tied,
    "member": lambda model: model.head.__setitem__(1, build(1).head[0]),
    "another member": lambda model: model.head.append(build(1).head[0]),
    "a member less": lambda model: model.head.__delitem__(0),
    "head": other_part("head"),
    "one model": lambda model: setattr(model, "head", build(1).head[0]),
    "shifter": lambda model: setattr(model, "shifter", EnergyShifter([-1.0, -2.0, -3.0, -4.0])),
    "self energies": assign("shifter.self_energies", lambda e: 2 * e),
    "self energies in place": lambda model: model.shifter.self_energies.add_(1.0),
    "self energies, float32": assign("shifter.self_energies", lambda e: e.float()),
    "self energies, strided": assign("shifter.self_energies", lambda e: torch.stack([e, 2 * e], 1)[:, 1]),
    "intercept": lambda model: setattr(model, "shifter", EnergyShifter([-1.0, -2, -3, -4, 7.5], fit_intercept=True)),
    "float": lambda model: model.float(),
    "float and back": lambda model: model.float().double(),
    "half": lambda model: model.half().float(),
    "bfloat16": lambda model: model.bfloat16(),
    "representation": other_representation,
    "Rcr": assign("representation.Rcr", lambda _: 4.4),
    "Rca": assign("representation.Rca", lambda _: 3.0),
    "EtaR": assign("representation.EtaR", lambda eta: 0.7 * eta),
    "EtaR in place": lambda model: model.representation.EtaR.mul_(0.7),
    "EtaR, float32": assign("representation.EtaR", lambda eta: 0.7 * eta.float()),
    "ShfR, strided": assign("representation.ShfR", lambda shift: torch.stack([shift, 0.9 * shift], 1)[:, 1]),
    "Zeta in place": lambda model: model.representation.Zeta.fill_(14.1),
    "other constants": other_constants,
    "cutoff function": other_cutoff_function,
    "twice": twice,
    "pruned": lambda model: prune.random_unstructured(model.head[0][1].linears[0], "weight", 0.5),
    "parametrized": lambda model: nn.utils.parametrizations.weight_norm(model.head[0][1].linears[1]),
    "forward replaced": assign("head.0.1.forward", lambda forward: lambda x: 2 * forward(x)),
    "forward of a layer": assign("head.0.1.linears.1.forward", lambda forward: lambda x: 2 * forward(x)),
    "forward of an activation": assign("head.0.1.activation.forward", lambda forward: lambda x: 2 * forward(x)),
    "own atomic_energies": assign("head.atomic_energies", lambda energies: lambda s, x: 2 * energies(s, x)),
    "own features": assign("representation.from_pairs", lambda f: lambda s, p, v: 2 * f(s, p, v)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_next_result_is_about_the_model_of_now(name: str) -> None:
    model, species_x = build(), batch()
    before = natively(model, *species_x, members=True)
    CHANGES[name](model)
    expected = by_torch(model, *species_x, members=True)
    assert torch.isfinite(expected.energies).all()
    if name != "float and back":
        assert not torch.equal(expected.forces, before.forces) or not torch.equal(expected.energies, before.energies)
    for _ in range(2):
        assert_same(anipot.single_point(model, *species_x, members=True), expected, model.dtype)


def doubled(*args: Any) -> Any:
    """A hook that doubles: (inputs,) before a forward, output after it, gradients after a backward."""
    values = args[1] if len(args) == 2 or isinstance(args[2], tuple) else args[2]
    return tuple(2 * v for v in values) if isinstance(values, tuple) else 2 * values


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m.register_forward_hook(doubled),
    "forward with keywords": lambda m: m.register_forward_hook(lambda m, i, k, o: 2 * o, with_kwargs=True),
    "pre-forward": lambda m: m.register_forward_pre_hook(doubled),
    "backward": lambda m: m.register_full_backward_hook(doubled),
    "pre-backward": lambda m: m.register_full_backward_pre_hook(doubled),
    "forward of all modules": lambda m: nn.modules.module.register_module_forward_hook(
        lambda module, _, output: 2 * output if module is m else None
    ),
    "pre-forward of all modules": lambda m: nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: doubled(module, inputs) if module is m else None
    ),
    "backward of all modules": lambda m: nn.modules.module.register_module_full_backward_hook(
        lambda module, inputs, outputs: doubled(module, inputs, outputs) if module is m else None
    ),
}


@pytest.mark.parametrize("where", ["head.0.1", "head.0.1.linears.1", "head.0.1.activation"])
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_are_called(name: str, where: str) -> None:
    model, species_x = build(), batch()
    before = natively(model, *species_x)
    handle = HOOKS[name](model.get_submodule(where))
    try:
        expected = by_torch(model, *species_x)
        assert not torch.equal(expected.forces, before.forces)
        for _ in range(2):
            assert_same(anipot.single_point(model, *species_x), expected)
        # A model that has never been computed without the hook.
        assert_same(anipot.single_point(copy.deepcopy(model), *species_x), by_torch(copy.deepcopy(model), *species_x))
    finally:
        handle.remove()
    assert_same(natively(model, *species_x), before)


def test_only_what_takes_part_is_looked_at_and_the_rest_before_it_does() -> None:
    """Changes of one element between calls that do not have it, then a call that has."""
    model, (species, x) = build(), batch()
    carbon = torch.full_like(species, 6)
    natively(model, species, x)
    for name in ("parameter", "activation", "network", "wider", "layer", "without bias", "tied", "alpha"):
        CHANGES[name](model)
        assert_same(natively(model, carbon, x), by_torch(model, carbon, x))
        assert_same(natively(model, species, x), by_torch(model, species, x))
    handle = model.head[0][0].register_forward_hook(lambda *_: torch.ones(1))  # of hydrogen
    natively(model, carbon, x)
    handle.remove()


def test_a_model_that_is_no_longer_covered_and_is_again() -> None:
    model, species_x = build(), batch()
    natively(model, *species_x)
    network, activation = model.head[0][1], model.head[0][1].activation
    network.activation = nn.ReLU()
    assert "ReLU" in engine_of(model).covers()
    assert_same(anipot.single_point(model, *species_x), by_torch(model, *species_x))
    network.activation = activation
    assert engine_of(model).covers() == ""
    assert_same(natively(model, *species_x), by_torch(model, *species_x))


def test_an_intercept_that_comes_and_goes() -> None:
    model, species_x = build(), batch()
    model.shifter = EnergyShifter([-1.0, -2.0, -3.0, -4.0, 7.5], fit_intercept=True)
    for fit_intercept in (True, False, True):
        model.shifter.fit_intercept = fit_intercept
        assert_same(anipot.single_point(model, *species_x), by_torch(model, *species_x))


def test_copies_and_members_are_models_of_their_own() -> None:
    model, species_x = build(), batch()
    before = natively(model, *species_x)
    deep, shallow, first = copy.deepcopy(model), copy.copy(model), model[0]
    for other in (deep, shallow, first):
        natively(other, *species_x)
    shallow.head = build(4).head
    weight(model).data.mul_(2)  # the weights of a member and of a shallow copy are shared, not those of a deep copy
    for other in (model, shallow, first):
        assert_same(natively(other, *species_x), by_torch(other, *species_x))
    assert torch.equal(natively(deep, *species_x).forces, before.forces)
    del model, shallow, first
    assert torch.equal(natively(deep, *species_x).forces, before.forces)


def test_training_and_evaluation_in_turn() -> None:
    """The loop of a fit: a validation after every step sees the weights of that step."""
    model, species_x = build(), batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    seen = []
    for _ in range(5):
        optimizer.zero_grad()
        model(species_x).energies.square().sum().backward()
        optimizer.step()
        result = natively(model, *species_x)
        assert_same(result, by_torch(model, *species_x))
        seen.append(float(result.energies))
    assert len(set(seen)) == 5


KEPT = ["optimizer", "one number", "transposed", "activation", "network", "head", "Rcr", "self energies", "float"]


@pytest.mark.parametrize("name", KEPT)
def test_a_calculator_that_is_kept(name: str) -> None:
    """ASE's cache knows nothing of weights: ``reset`` is the user's part, the rest is ours, the kept list too."""
    model, (numbers, x) = build(), batch()
    atoms = Atoms(numbers[0].numpy(), x[0].numpy(), cell=[7.1, 7.3, 7.7], pbc=True)
    atoms.calc = model.ase()
    atoms.get_forces()
    CHANGES[name](model)
    atoms.calc.reset()
    other = atoms.copy()
    other.calc = model.ase(skin=0)
    with anipot.reference_path():
        expected = other.get_forces(), other.get_stress(), other.get_potential_energy()
    atol = 1e-12 if name != "float" else 1e-4
    for found, value in zip(
        (atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy()), expected, strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=1e-14, atol=atol)


def test_a_calculator_that_is_given_another_model() -> None:
    (numbers, x), calc = batch(), build().ase()
    atoms = Atoms(numbers[0].numpy(), x[0].numpy())
    calc.get_property("forces", atoms)
    calc.model = build(7)
    calc.reset()
    expected = build(7).ase().get_property("forces", atoms)
    np.testing.assert_array_equal(calc.get_property("forces", atoms), expected)


def test_a_calculator_that_is_given_other_elements() -> None:
    """Element indices are those of the model at hand."""
    first, second = build(), build(7)
    for model in (first, second):
        model.periodic_table_index = False
    second.converter = anipot.SpeciesConverter(("C", "O", "H", "N"))
    atoms = Atoms("CHONH", np.random.default_rng(0).normal(size=(5, 3)) * 2)
    calc = first.ase()
    calc.get_property("energy", atoms)
    calc.model = second
    calc.reset()
    assert calc.get_property("energy", atoms) == second.ase().get_property("energy", atoms)
