"""Groups of parameters, several optimizers as one, scaled steps, and learning rates over time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from training_data import ani, schnet

from anipot.training import OptimizerSettings, ScheduleSettings
from anipot.training.layers import Scales, layers_of, networks_of
from anipot.training.optimizers import Together


def test_the_ani_recipe():
    """TorchANI's training: weight decay of the second and third layer, SGD for biases."""
    model = ani()
    optimizer = OptimizerSettings("AdamW", 1e-3, [0, 1e-5, 1e-6, 0], biases=2e-3).build(model)
    main, biases = optimizer.parts
    assert isinstance(main, torch.optim.AdamW)
    assert isinstance(biases, torch.optim.SGD)
    decay = {p: group["weight_decay"] for group in main.param_groups for p in group["params"]}
    for network in model.head:
        assert [decay[layer.weight] for layer in network.linears] == [0, 1e-5, 1e-6, 0]
    assert {p for group in biases.param_groups for p in group["params"]} == {
        layer.bias for network in model.head for layer in network.linears
    }
    assert [group["lr"] for group in biases.param_groups] == [2e-3]
    known = [p for part in optimizer.parts for group in part.param_groups for p in group["params"]]
    assert len(known) == len(list(model.parameters()))


def test_one_decay_spares_biases_and_embeddings_in_all_parts():
    model = schnet()
    optimizer = OptimizerSettings("AdamW", 1e-3, 0.01).build(model)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        spared = parameter.dim() == 1
        assert decay[parameter] == (0 if spared else 0.01), name


def test_frozen_parameters_are_left_out():
    model = schnet()
    model.representation.requires_grad_(False)
    optimizer = OptimizerSettings().build(model)
    known = {p for group in optimizer.param_groups for p in group["params"]}
    assert known == set(model.head.parameters())
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        OptimizerSettings().build(model)


def test_together_is_the_same_as_apart_and_can_be_stored():
    def problem():
        torch.manual_seed(0)
        return [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))]

    def gradients(parameters, step):
        for i, p in enumerate(parameters):
            p.grad = torch.sin(p.detach() + step + i)

    apart, together = problem(), problem()
    ones = [torch.optim.AdamW(apart[:1], 0.1), torch.optim.SGD(apart[1:], 0.2)]
    both = Together([torch.optim.AdamW(together[:1], 0.1), torch.optim.SGD(together[1:], 0.2)])
    plans = [torch.optim.lr_scheduler.ExponentialLR(one, 0.9) for one in ones]
    plan = torch.optim.lr_scheduler.ExponentialLR(both, 0.9)
    for step in range(6):
        for parameters in (apart, together):
            gradients(parameters, step)
        for one, schedule in zip(ones, plans, strict=True):
            one.step()
            schedule.step()
        both.step()
        plan.step()
        if step == 2:  # stored and restored
            state = both.state_dict()
            both = Together([torch.optim.AdamW(together[:1], 0.1), torch.optim.SGD(together[1:], 0.2)])
            both.load_state_dict(state)
            after = torch.optim.lr_scheduler.ExponentialLR(both, 0.9, last_epoch=step)
            after.load_state_dict(plan.state_dict())
            for group in both.param_groups:
                group["lr"] = group["initial_lr"] * 0.9**3
            plan = after
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b)
    both.zero_grad()
    assert all(p.grad is None for p in together)


@pytest.mark.parametrize(("kind", "decay"), [("Adam", 0.0), ("AdamW", 0.0), ("AdamW", 0.3)])
def test_scaled_steps_are_those_of_scaled_inputs_and_outputs(kind, decay):
    """A network on features c·(x − m) whose output counts s, trained plainly; and one that has both in its weights."""
    torch.manual_seed(0)
    x = torch.randn(64, 5).double() * torch.tensor([1e-3, 0.1, 1.0, 20.0, 300.0]) + 7
    y = 1e-3 * torch.randn(64, 1).double()
    mean, factor, size = x.mean(0), 1 / x.std(0), 2e-3
    plain = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model = ani(hidden=(8,))
    scaled = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        scaled[0].weight *= factor
        scaled[0].bias -= scaled[0].weight @ mean
        scaled[2].weight *= size
        scaled[2].bias *= size
    model.head = nn.ModuleList([scaled])  # stands for any head
    scales = Scales({"head.0.0.weight": torch.stack([factor, mean])}, {"head.0.2.weight": size, "head.0.2.bias": size})
    settings = {"options": {"eps": 0.0}}
    ours = OptimizerSettings(kind, 1e-2, decay, **settings).build(model, scales)
    weights, biases = [[p for p in plain.parameters() if (p.dim() == 1) == bias] for bias in (False, True)]
    groups = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0.0}]
    theirs = getattr(torch.optim, kind)(groups, 1e-2, eps=0.0)
    for _ in range(5):
        for optimizer, prediction in ((theirs, size * plain((x - mean) * factor)), (ours, scaled(x))):
            optimizer.zero_grad()
            ((prediction - y) ** 2).mean().backward()
        torch.testing.assert_close(scaled[2].weight.grad * size, plain[2].weight.grad)
        theirs.step(), ours.step()
        torch.testing.assert_close(scaled[0].bias + scaled[0].weight @ mean, plain[0].bias)
        torch.testing.assert_close(scaled[0].weight, plain[0].weight * factor)
        torch.testing.assert_close(scaled[2].weight, plain[2].weight * size)
        torch.testing.assert_close(scaled[2].bias, plain[2].bias * size)


def test_networks_are_found():
    assert [name for name, _ in networks_of(ani())] == [f"head.{i}" for i in range(4)]
    names = [name for name, _ in networks_of(schnet())]
    assert names == ["head.networks.0"]
    assert [len(layers_of(network)) for _, network in networks_of(schnet())] == [2]


def rates(settings: ScheduleSettings, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    plan = settings.build(optimizer)["scheduler"]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    return found


def test_exponential_decay():
    smooth = rates(ScheduleSettings("exponential", factor=0.96, every=10), 21)
    assert smooth == pytest.approx([0.96 ** (i / 10) for i in range(21)])
    steps = rates(ScheduleSettings("exponential", factor=0.96, every=10, staircase=True), 21)
    assert steps == pytest.approx([1.0] * 10 + [0.96] * 10 + [0.96**2])


def test_restarts_are_those_of_torch():
    ours = rates(ScheduleSettings("restarts", episode=5, stretch=2, steps_per_epoch=3), 60)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    plan = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=15, T_mult=2)
    theirs = []
    for _ in range(60):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plan.step()
    assert ours == pytest.approx(theirs)


def test_cosine_with_warmup():
    found = rates(ScheduleSettings("cosine", episode=2, steps_per_epoch=10, warmup=5, lowest=0.1), 30)
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[15] == pytest.approx(0.55)
    assert found[25:] == pytest.approx([0.1] * 5)


def test_plateau():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    configuration = ScheduleSettings("plateau", patience=1, factor=0.5).build(optimizer)
    assert configuration["monitor"] == "val_loss"
    for value in (3.0, 2.0, 2.0, 2.0):
        configuration["scheduler"].step(value)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSettings("Adagrad"), "optimizer must be one of Adam, AdamW, SGD, got 'Adagrad'"),
        (lambda: OptimizerSettings(lr=0.0), "learning rates must be positive"),
        (lambda: OptimizerSettings(weight_decay=[-1.0]), "weight decay at least 0"),
        (
            lambda: OptimizerSettings(weight_decay=[0.0]).build(ani()),
            "weight_decay has 1 numbers, but head.0 has 4 layers",
        ),
        (lambda: ScheduleSettings("linear"), "schedule must be one of"),
        (lambda: ScheduleSettings("plateau", factor=2.0), "factor must be between 0 and 1"),
        (lambda: ScheduleSettings("cosine", episode=0), "must be at least 1"),
        (lambda: ScheduleSettings("plateau", warmup=3), "no warmup"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_episode_without_steps_goes_by_epochs():
    assert (
        ScheduleSettings("restarts").build(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0))["interval"] == "epoch"
    )
    assert math.isclose(ScheduleSettings("restarts", episode=50).at(25), 0.5)
