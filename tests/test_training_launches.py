"""How often a training step waits for a GPU, and that what it launches does not grow with the batch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts import ELEMENTS, SELF_ENERGIES, molecule
from cuda_on_host import needs_compiler
from launches import Launches, launches
from pretend_cuda import is_there, pretend_cuda

import anipot
from anipot import CELU, AEVComputer, ANIModel, AtomicNetwork, EnergyShifter, Ensemble, Potential, known
from anipot.data import AtomsDataset, Batch
from anipot.data.memory import MemorySource, block_of_arrays

training = pytest.importorskip("anipot.training")
quietly = pytest.importorskip("anipot.training.quiet").quietly
lightning = pytest.importorskip("lightning.pytorch")

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def place() -> Iterator[torch.device]:
    with pretend_cuda() as device:
        yield device


def potential(members: int) -> Potential:
    torch.manual_seed(0)
    aev = AEVComputer.like_1x()
    heads = [
        ANIModel([AtomicNetwork((aev.num_features, 6 + e, 5, 1), CELU(0.1)) for e in range(4)]) for _ in range(members)
    ]
    return Potential(ELEMENTS, aev, Ensemble(heads) if members > 1 else heads[0], EnergyShifter(SELF_ENERGIES))


def conformers(number: int) -> AtomsDataset:
    """Molecules with all four elements, of two sizes."""
    blocks = []
    for size in (5, 6):
        found = [molecule(size, seed) for seed in range(number // 2)]
        species = np.stack([numbers.numpy() for numbers, _ in found])
        species[:, :4] = (1, 6, 7, 8)
        x = np.stack([positions.numpy() for _, positions in found])
        blocks.append(block_of_arrays(species, x, energies=species.sum(1), forces=0 * x))
    return AtomsDataset(MemorySource(blocks))


def loaded(number: int) -> Batch:
    """A batch as the loader makes it."""
    return next(iter(conformers(number).batches(number)))


def task(forces: bool, members: int) -> training.AtomisticTask:
    outputs = [training.ModelOutput("energies", scaling="sqrt_atoms")]
    outputs += [training.ModelOutput("forces", weight=0.1)] if forces else []
    optimizer = training.OptimizerSettings("AdamW", 1e-3, [0, 1e-5, 0], biases=1e-3)
    return training.AtomisticTask(potential(members), outputs, optimizer).to("cuda")


def unknown(batch: Batch) -> SimpleNamespace:
    """The same on the device, where nobody has told the host about it."""
    labels = {name: values.to("cuda") for name, values in batch.properties.items()}
    species, coordinates = batch.species.to("cuda"), batch.coordinates.to("cuda")
    return SimpleNamespace(species=species, coordinates=coordinates, cell=None, pbc=None, properties=labels)


def counted(forces: bool, members: int, batch: Batch, there: bool = False) -> Launches:
    """Return what the second step takes, from the batch of the host or ``there``; in the first, constants are made."""
    trained = task(forces, members)
    optimizer = trained.configure_optimizers()
    for _ in range(2):
        moved = unknown(batch) if there else None
        with launches() as found:
            optimizer.zero_grad()
            loss = trained.training_step(moved or batch.to("cuda"), 0)
            trained.backward(loss)
            trained.on_before_optimizer_step(optimizer)
            optimizer.step()
    return found


def test_what_waits_is_counted(place: torch.device) -> None:
    x = torch.ones(3, device=place)
    with launches() as found:
        x[x > 0].sum().item()
        torch.nonzero(x)
        x.tolist()
        torch.tensor([1.0], device=place)
        x.to("cpu")
        torch.ones(2).to(place)
        torch.ones(2).to(place, non_blocking=True)
    assert {name for _, name in found.waits} == {
        *("index", "_local_scalar_dense", "nonzero", "tolist", "to", "to the device")
    }
    assert found.num_waits == 8
    with launches() as found:
        torch.ones(3).sum().item()
        x.view(3, 1).detach()
        (2 * x).sum()
        torch.ones(2).pin_memory().to(place, non_blocking=True)
    assert not found.waits
    assert [name for _, name in found.launches] == ["mul", "sum", "clone"]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("forces", [False, True])
def test_a_step_waits_once(forces: bool, members: int) -> None:
    """For the number of pairs; of a batch that is on the device already, once more for its species."""
    found = counted(forces, members, loaded(6))
    assert dict(found.waits) == {("kernels/cuda/search.py:pairs", "tolist"): 1}
    found = counted(forces, members, loaded(6), there=True)
    assert dict(found.waits) == {("kernels/cuda/search.py:pairs", "tolist"): 1, ("known.py:asked", "cpu"): 1}


def test_a_loop_of_ones_own_waits_twice() -> None:
    """For species and coordinates, as nobody tells, and for the number of pairs."""
    model, batch = potential(1).to("cuda"), unknown(loaded(6))
    for _ in range(2):
        x = batch.coordinates.clone().requires_grad_()
        with launches() as found:
            energies = model((batch.species, x)).energies
            torch.autograd.grad(energies.sum(), x)
    assert dict(found.waits) == {("kernels/cuda/search.py:pairs", "tolist"): 1, ("known.py:asked", "cpu"): 1}


@pytest.mark.parametrize("members", [1, 3])
def test_launches_do_not_grow_with_the_batch(members: int) -> None:
    few, many = (counted(True, members, loaded(number)) for number in (4, 12))
    assert few.launches == many.launches


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_features_that_are_kept_make_nobody_wait(place: torch.device) -> None:
    """Nor does Lightning, or an average of the weights; in the first epoch they are computed."""
    dataset, waits = conformers(8), []

    class Clock(lightning.Callback):
        def on_train_batch_end(self, *args: object) -> None:
            waits.append(found.num_waits)
            found.clear()

    class Accelerator(lightning.accelerators.CPUAccelerator):
        def setup_device(self, device: torch.device) -> None:
            assert device == place

    trained = task(False, 1)
    trained._energies = training.FeatureCache(trained.potential, dataset)
    strategy = lightning.strategies.SingleDeviceStrategy(place, Accelerator())
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callbacks = [training.EMA(0.9), Clock()]
    with quietly(), launches() as found:
        trainer = lightning.Trainer(
            strategy=strategy, max_epochs=3, callbacks=callbacks, num_sanity_val_steps=0, logger=False, **quiet
        )
        trainer.fit(trained, dataset.batches(3, shuffle=True), dataset.batches(8))
    assert len(waits) == 9
    assert sum(waits[:3]) > 0
    assert sum(waits[4:6] + waits[7:]) == 0  # those that begin an epoch follow a validation


def test_the_average_is_the_same() -> None:
    """As Lightning computes it, which asks the device at every step."""
    model, step = task(False, 1), 0
    callbacks = [training.EMA(0.7), training.EMA(0.7)]
    callbacks[0].setup(None, model, "fit")
    super(training.EMA, callbacks[1]).setup(None, model, "fit")
    for step in range(1, 4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(step)
        for callback in callbacks:
            callback.on_train_batch_end(SimpleNamespace(global_step=step), model, None, None, step)
    mine, expected = (callback._average_model.state_dict() for callback in callbacks)
    assert mine.keys() == expected.keys()
    for name in mine:
        assert torch.equal(mine[name], expected[name]), name
    assert int(mine["n_averaged"]) == step


# ---- What the host knows.


def test_what_is_written_to_is_asked_for_again(place: torch.device) -> None:
    species = torch.tensor([[1, 6], [8, -1]], device=place)
    with known.remembering(), launches() as found:
        known.tell(species, known.narrow(np.array([[1, 6], [8, -1]])))
        assert known.species_on_host(species).tolist() == [[1, 6], [8, -1]]
        assert known.species_on_host(species.reshape(-1)).tolist() == [1, 6, 8, -1]
        assert not found.waits
        for part in (species[1], species.t(), species[:, :1], species.view(torch.int32)):
            assert known.told(part) is None
            assert (known.species_on_host(part) == part.cpu().numpy()).all()
        flat = species.reshape(-1)
        flat[0] = 7
        assert known.told(species) is None
        assert known.species_on_host(species).tolist() == [[7, 6], [8, -1]]
        assert known.told(species) is not None
        with known.forgetting():
            assert known.told(species) is None
        assert known.species_on_host(torch.tensor([-9, 500], device=place)).tolist() == [known.LOWEST, known.HIGHEST]
        with torch.inference_mode():
            other = torch.tensor([3], device=place)
            known.tell(other, np.array([4]))
            assert known.species_on_host(other).tolist() == [3]


def test_nothing_is_believed_for_longer_than_a_call(place: torch.device) -> None:
    """Even what is written past torch's counting of versions is seen by the next."""
    model, batch = potential(1).to(place), loaded(4).to(place)
    species, x = batch.species, batch.coordinates

    def energies() -> torch.Tensor:
        with known.remembering():
            return model((species, x)).energies.cpu()

    before = energies()
    assert known.told(species) is None
    species.data[0, 0] = 8
    with pretend_cuda():
        fresh = model((species.clone(), x.clone())).energies.cpu()
    assert torch.equal(energies(), fresh)
    assert not torch.equal(fresh, before)
    x.data[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"molecule 1, atom 2 has coordinates \[nan"):
        energies()


def test_coordinates_of_ghosts_that_become_atoms(place: torch.device) -> None:
    batch = loaded(4)
    batch.coordinates[batch.species < 0] = torch.nan
    batch, model = batch.to(place), potential(1).to(place)
    other = torch.where(batch.species < 0, 1, batch.species)
    with known.remembering():
        batch.recall()
        for _ in range(2):
            with pytest.raises(ValueError, match="they must be finite"):
                model((other, batch.coordinates))
        assert model((batch.species, batch.coordinates)).energies.cpu().isfinite().all()


def test_elements_of_a_converter_that_is_changed(place: torch.device) -> None:
    model, batch = potential(1).to(place), loaded(4).to(place)
    model((batch.species, batch.coordinates))
    model.converter.index_of[8] = 2
    expected = potential(1)
    expected.converter.index_of[8] = 2
    found = model((batch.species, batch.coordinates)).energies.cpu()
    assert torch.allclose(found, expected((batch.species.cpu(), batch.coordinates.cpu())).energies, rtol=1e-7)


def test_what_transforms_of_torch_hand_out_is_read() -> None:
    """It has no memory to look at."""
    seen = []

    def squares(x: torch.Tensor) -> torch.Tensor:
        seen.append(known.asked((x > 0).to(torch.int8)).tolist())
        return (x**2).sum()

    torch.func.jacrev(torch.func.grad(squares))(torch.tensor([[1.0, -1.0]]))
    torch.func.grad(squares)(torch.tensor([[-1.0], [1.0]]))
    assert seen[-1] == [[0], [1]]


def test_a_batch_is_what_it_was_when_it_was_sent() -> None:
    batch = loaded(4)
    moved = batch.to("cuda")
    batch.index[0], batch.species[0] = 77, 1
    with known.remembering():
        assert known.told(moved.index) is None
        moved.recall()
        assert known.told(moved.index).tolist() == [0, 1, 2, 3]
        assert known.told(moved.species)[0].tolist()[:4] == [1, 6, 7, 8]
        moved.species[0, 0] = 6
        moved.recall()
        assert known.told(moved.species) is None
    back = copy.deepcopy(moved).to("cpu")
    assert not is_there(back.species)


@pytest.mark.parametrize("sent", [False, True], ids=["there", "sent"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("species", r"molecule 1, atom 2 has species -3"),
        ("unknown", r"molecule 1, atom 2 is Xe \(atomic number 54\)"),
        ("many", r"molecule 1, atom 2 is no element \(300\)"),
        ("coordinates", r"molecule 1, atom 2 has coordinates \[nan"),
        ("spot", r"molecule 1: atoms 0 and 2 stand on one spot"),
    ],
)
def test_wrong_batches_are_refused(sent: bool, fault: str, message: str) -> None:
    batch = loaded(4)
    if fault in ("coordinates", "spot"):
        batch.coordinates[1, 2] = torch.nan if fault == "coordinates" else batch.coordinates[1, 0]
    else:
        batch.species[1, 2] = {"species": -3, "unknown": 54, "many": 300}[fault]
    model = potential(1).to("cuda")
    there = batch.to("cuda") if sent else unknown(batch)
    with known.remembering():
        if sent:
            there.recall()
        with pytest.raises(ValueError, match=message):
            model((there.species, there.coordinates))
    indices = anipot.Potential(ELEMENTS, model.representation, model.head, model.shifter, periodic_table_index=False)
    if fault == "many":
        with pytest.raises(ValueError, match="molecule 1, atom 2 has element index 300"):
            indices((torch.where(there.species == 300, 300, 0), there.coordinates))
