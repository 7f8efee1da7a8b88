"""Models trained with SchNetPack 2: SchNet and PaiNN with an atomwise energy.

SchNetPack writes pickled objects (``best_model``). Here a pickle is read by `anipot.interfaces.inert_pickle`, which
builds nothing but tensors and inert records: no code of the file or of SchNetPack runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from anipot import units
from anipot.elements import atomic_numbers, symbol
from anipot.energy import EnergyShifter
from anipot.head import Atomwise, ShiftedSoftplus
from anipot.interfaces.schnetpack_energy import energy_network, energy_offsets, energy_output
from anipot.interfaces.schnetpack_file import ModelFile, check_kind, common_activation, fill, open_model
from anipot.potential import Potential
from anipot.representation import BesselBasis, CosineCutoff, GaussianBasis, MollifierCutoff, PaiNN, SchNet

#: Hartree in the units that models are trained in.
ENERGY_UNITS = {
    "hartree": 1.0,
    "ev": units.HARTREE_TO_EV,
    "kcal/mol": units.HARTREE_TO_KCALMOL,
    "kj/mol": units.HARTREE_TO_KJMOL,
}
LENGTH_UNITS = {"angstrom": 1.0, "ang": 1.0, "å": 1.0, "bohr": units.BOHR_TO_ANGSTROM, "nm": 10.0}


def read_model(
    path: str | os.PathLike[str],
    *,
    energy_unit: str,
    length_unit: str = "angstrom",
    elements: Sequence[str] | None = None,
    output: str | None = None,
) -> Potential:
    """Return the potential in a file of SchNetPack 2: a pickled model (``best_model``), checkpoint or state dict.

    Parameters
    ----------
    path
        The file.
    energy_unit
        Of the energies that the model was trained on, "eV", "kcal/mol", "kJ/mol" or "Hartree": the file does not say.
    length_unit
        Of the coordinates that it was trained on: "angstrom" (SchNetPack's default), "bohr" or "nm".
    elements
        Symbols of the elements that it was trained on; the file does not say. By default all that have an embedding,
        and an atomic reference where these are added.
    output
        Name of the energy where the model has several outputs; "output 0", "output 1", … in a state dict.

    Returns
    -------
    Potential
        Its ``info()["source"]`` tells what was found, and under "assumed" what a state dict does not say.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        For arguments of a wrong type.
    ValueError
        For an unknown unit, a file that cannot be read, a representation that is neither SchNet nor PaiNN (it is
        named), and for every part that would change the result and is not known here.

    Notes
    -----
    Gaussians are taken as stored. The frequencies n π / r_c of a Bessel basis are computed from r_c in full precision;
    SchNetPack stores them in float32, which is a relative difference of 1e-7.

    Examples
    --------
    >>> read_model("best_model", energy_unit="furlong")
    Traceback (most recent call last):
    ...
    ValueError: unknown energy unit 'furlong'; known: hartree, ev, kcal/mol, kj/mol
    """
    per_hartree = _unit(energy_unit, ENERGY_UNITS, "energy unit")
    per_angstrom = _unit(length_unit, LENGTH_UNITS, "length unit")
    if isinstance(elements, str) or not isinstance(output, (str, type(None))):
        raise TypeError(f"expected a list of symbols and the name of an output, got {elements!r} and {output!r}")
    numbers = None if elements is None else list(atomic_numbers(elements))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    file = open_model(path)
    try:
        return _potential(file, 1 / per_hartree, per_angstrom, numbers, output)
    except (ValueError, RuntimeError, OverflowError) as error:
        if str(error).startswith(str(path)):
            raise
        raise file.problem(f"is not a model that can be built: {error}") from error


def _unit(name: str, table: dict[str, float], what: str) -> float:
    if not isinstance(name, str):
        raise TypeError(f"the {what} must be one of the words {', '.join(table)}, got {type(name).__name__}")
    if name.lower() not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name.lower()]


def _potential(
    file: ModelFile, energy: float, length: float, numbers: list[int] | None, output: str | None
) -> Potential:
    build = _schnet if _representation(file) == "SchNet" else _painn
    index, key = energy_output(file, output)
    mean, references = energy_offsets(file, key)
    embedding = file.take("representation.embedding.weight", None, None)
    numbers = _numbers(file, numbers, len(embedding), references)
    representation = build(file, (len(numbers), embedding.shape[1]), length)
    representation.embedding.weight.data = embedding[numbers].clone()
    network = energy_network(file, f"output_modules.{index}.outnet", embedding.shape[1])
    unknown = sorted(set(file.weights) - file.used)
    if unknown:
        raise file.problem(f"has parts that are not known here: {', '.join(unknown)}")
    if not file.modules:
        file.assumed |= {"aggregation": "sum", "parts without weights": "none that changes the energy"}
    source = {
        "program": "SchNetPack",
        "file": file.path.name,
        "kind": "pickled model" if file.modules else "state dict",
        "output": key,
        "assumed": file.assumed,
    }
    offsets = mean + (torch.zeros(len(numbers), dtype=torch.float64) if references is None else references[numbers])
    shifter = EnergyShifter((offsets * energy).tolist())
    name = f"{type(representation).__name__} of SchNetPack"
    head = Atomwise(network, stddev=energy)
    return Potential([symbol(z) for z in numbers], representation, head, shifter, name, {"source": source})


def _numbers(file: ModelFile, given: list[int] | None, size: int, references: Tensor | None) -> list[int]:
    """Return the atomic numbers of the elements of the model, whose weights are indexed by them."""
    known = min(size, 119 if references is None else len(references), 119)
    file.assumed["elements"] = "all that have weights" if given is None else "as given"
    for z in given or ():
        if z >= size:
            raise file.problem(f"has no embedding of {symbol(z)}; it has {size - 1} elements")
        if z >= known:
            raise file.problem(f"has no atomic reference of {symbol(z)}; it has {known - 1}")
    return list(range(1, known)) if given is None else given


def _representation(file: ModelFile) -> str:
    """Check the classes of all modules but the outputs, and return the name of the representation."""
    for name in file.modules:
        check_kind(file, name)
    needed = ("representation", "representation.cutoff_fn", "representation.radial_basis", "representation.embedding")
    missing = [name for name in needed if file.modules and name not in file.modules]
    if missing:
        raise file.problem(f"is not a complete model of SchNetPack: it has no {', '.join(missing)}")
    if file.modules and file.modules["representation.embedding"].attributes.get("max_norm") is not None:
        raise file.problem("has an embedding with max_norm, which is not known here")
    kind = file.kind("representation") or _guess(file.weights)
    if kind not in ("SchNet", "PaiNN"):
        raise file.problem(f"has the representation {kind}; known are SchNet and PaiNN")
    return kind


def _guess(weights: dict[str, Tensor]) -> str:
    """Return the name of the representation of a state dict."""
    names = " ".join(weights)
    for mark, kind in (
        ("field_interaction", "FieldSchNet"),
        ("filternet", "SO3net"),
        ("interatomic_context_net", "PaiNN"),
        ("filter_network", "SchNet"),
    ):
        if mark in names:
            return kind
    return f"with weights such as {next(iter(weights))!r}"


def _cutoff(file: ModelFile, length: float) -> tuple[float, nn.Module]:
    """Return the cutoff (Å) and its function."""
    start = "representation.cutoff_fn."
    if start + "switch_on" in file.weights:
        raise file.problem("has the cutoff function SwitchFunction; known are CosineCutoff and MollifierCutoff")
    cutoff = file.number(start + "cutoff") * length
    mollifier = start + "eps" in file.weights
    if file.modules and mollifier != (file.kind("representation.cutoff_fn") == "MollifierCutoff"):
        raise file.problem(f"has no eps of a MollifierCutoff, or one of a {file.kind('representation.cutoff_fn')}")
    if not file.modules:
        file.assumed["cutoff function"] = "mollifier, since eps is stored" if mollifier else "cosine"
    if mollifier:
        # Theirs is 0 above r_c − eps. Ours goes to 0 at r_c; it must be nothing above r_c − eps.
        eps = file.number(start + "eps") * length / cutoff if cutoff else -1.0
        if not 0 <= eps < 0.01:
            raise file.problem(
                f"has a MollifierCutoff at {cutoff:g} Å with a relative eps of {eps:g}; known: 0 to 0.01"
            )
    return cutoff, MollifierCutoff() if mollifier else CosineCutoff()


def _basis(file: ModelFile, length: float) -> nn.Module:
    start = "representation.radial_basis."
    if start + "widths" in file.weights:
        centers = file.take(start + "offsets", None)  # as stored: rebuilding them differs in the last bits
        widths = file.take(start + "widths", len(centers))
        return GaussianBasis(centers.double() * length, 0.5 / (widths.double() * length) ** 2)
    if start + "freqs" in file.weights:
        frequencies = file.take(start + "freqs", None).double()
        if length != 1:
            raise file.problem("has a Bessel basis, whose values have a unit: only models trained in Å are read")
        n = torch.arange(1, len(frequencies) + 1, dtype=torch.float64)
        first = float((n * frequencies).sum() / (n * n).sum())  # the best fit to rounded ones
        if not first > 0 or not torch.allclose(frequencies, n * first, rtol=1e-6, atol=0):
            raise file.problem("has a Bessel basis whose frequencies are not 1, 2, 3, … times the first")
        return BesselBasis(len(frequencies), math.pi / first)
    raise file.problem("has a radial basis that is not known here; known: GaussianRBF, GaussianRBFCentered, BesselRBF")


def _schnet(file: ModelFile, sizes: tuple[int, int], length: float) -> SchNet:
    cutoff, function = _cutoff(file, length)
    start, basis = "representation.interactions", _basis(file, length)
    steps = range(file.count(start))
    layers = [f"{start}.{i}.{part}.0" for i in steps for part in ("f2out", "filter_network")]
    linear = [f"{start}.{i}.{part}" for i in steps for part in ("in2f", "f2out.1", "filter_network.1")]
    if not isinstance(common_activation(file, layers, "shifted_softplus", "SchNet"), ShiftedSoftplus):
        raise file.problem("has another activation than shifted_softplus in its SchNet")
    common_activation(file, linear, "Identity")
    file.take(f"{start}.0.f2out.1.weight", sizes[1], sizes[1])  # before anything of this size is made
    num_filters = len(file.take(f"{start}.0.filter_network.1.weight", None, None))
    file.take(f"{start}.0.filter_network.1.weight", num_filters, num_filters)
    mine = SchNet(*sizes, len(steps), cutoff, basis, function, num_filters=num_filters)
    names = {"inward": "in2f", "outward.0": "f2out.0", "outward.2": "f2out.1"}
    names |= {"filters.0": "filter_network.0", "filters.2": "filter_network.1"}
    fill(file, mine.interactions, start, names)
    return mine


def _painn(file: ModelFile, sizes: tuple[int, int], length: float) -> PaiNN:
    cutoff, function = _cutoff(file, length)
    start, mixing = "representation.interactions", "representation.mixing"
    steps, basis, features = range(file.count(start)), _basis(file, length), sizes[1]
    nets = [f"{start}.{i}.interatomic_context_net" for i in steps]
    nets += [f"{mixing}.{i}.intraatomic_context_net" for i in steps]
    activation = common_activation(file, [net + ".0" for net in nets], "silu", "PaiNN")
    linear = [net + ".1" for net in nets] + [f"{mixing}.{i}.mu_channel_mix" for i in steps]
    common_activation(file, ["representation.filter_net", *linear], "Identity")
    file.take(f"{mixing}.0.intraatomic_context_net.0.weight", features, 2 * features)  # before any of this size is made
    rows = len(file.take("representation.filter_net.weight", None, None))
    shared = rows == 3 * features and len(steps) > 1
    epsilon = _epsilon(file, len(steps))
    mine = PaiNN(*sizes, len(steps), cutoff, basis, function, activation, shared_filters=shared, epsilon=epsilon)
    fill(file, [mine], "", {"filters": "representation.filter_net"})
    net = "interatomic_context_net"
    fill(file, mine.messages, start, {"context.0": f"{net}.0", "context.2": f"{net}.1"})
    net = "intraatomic_context_net"
    fill(file, mine.mixing, mixing, {"context.0": f"{net}.0", "context.2": f"{net}.1", "mix": "mu_channel_mix"})
    return mine


def _epsilon(file: ModelFile, num_interactions: int) -> float:
    if not file.modules:
        file.assumed["epsilon"] = "1e-8 under the root of PaiNN"
    found = {file.attribute(f"representation.mixing.{i}", "epsilon", 1e-8, float) for i in range(num_interactions)}
    if len(found) != 1 or not 0 <= min(found) < math.inf:
        raise file.problem(f"has the epsilons {sorted(found)} in its mixing blocks; expected one number ≥ 0")
    return found.pop()
