"""Networks of all elements and members on a GPU: energies of atoms and gradients of their features, in one launch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from anipot.kernels.cuda.network_plan import SHAPES, UNIT, Device, Places, Problem, Shape, places, plan, tasks
from anipot.kernels.cuda.program import Arguments, f64, fill, i64, pointer, precision, program


class Layer(Protocol):
    """A dense layer and its activation, as ``anipot.head.dense`` describes it."""

    @property
    def weight(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...
    @property
    def activation(self) -> int: ...
    @property
    def parameter(self) -> float: ...


class _LayerSpec(ctypes.Structure):
    _fields_ = [
        *((name, pointer) for name in ("weight", "bias")),
        *((name, i64) for name in ("n_in", "n_out", "activation")),
        ("parameter", f64),
        *((name, i64) for name in ("input", "value", "slope", "vectors")),
    ]


class NetworksArguments(Arguments):
    """What the kernel takes (networks_arguments.h)."""

    _fields_ = (
        *((name, pointer) for name in ("layers", "first_layer", "tasks", "columns", "features", "energies")),
        ("gradients", pointer),
        *((name, i64) for name in ("rows", "width", "elements", "members", "groups", "hidden", "deepest")),
        *((name, i64) for name in ("split", "vectors")),
        ("seed", f64),
    )


class NetworkTables:
    """Networks of all elements and members as the kernel reads them, for any number of atoms.

    Parameters
    ----------
    layers
        For each member and element the dense layers of its network, two at least, with one output; empty for elements
        that never have rows. Weights and biases are on one device and of one dtype, contiguous, and are read where they
        are at every launch. Members may differ in widths and depths.
    columns
        For each column of the features, that of the first weights.
    gradients
        Whether gradients of the features are wanted.

    Raises
    ------
    ValueError
        If the layers are not such.
    """

    def __init__(self, layers: Sequence[Sequence[Sequence[Layer]]], columns: Sequence[int], *, gradients: bool) -> None:
        networks = [network for member in layers for network in member]
        used = [network for network in networks if network]
        _check(used, columns)
        self.layers = layers  # which keep the memory of the weights
        self.gradients, self.width = gradients, len(columns)
        if not used:
            return
        weight = used[0][0].weight
        self.dtype, self.device, self.size = weight.dtype, weight.device, weight.element_size()
        #: Layers of the deepest network.
        self.deepest = max(map(len, used))
        places = [_places(network, gradients) for network in used]
        #: Rows of shared memory that hidden values take, and from where on features may stand.
        self.end, self.features = max(at.end for at in places), max(at.features for at in places)
        #: Multiplications for a row of each element.
        self.work = [_work(network, self.width) if network else 0 for network in layers[0]]
        specs, first = _specs(networks, _in_units(columns, UNIT // self.size), gradients)
        self.tensors = {
            "layers": torch.frombuffer(bytearray(specs), dtype=torch.int64).to(self.device),
            "first_layer": torch.tensor(first, dtype=torch.int32, device=self.device),
            "columns": torch.tensor(columns, dtype=torch.int32, device=self.device),
        }


class Networks:
    """Networks of all elements and members for fixed numbers of rows of each element.

    Parameters
    ----------
    tables
        The networks.
    counts
        Rows of each element: rows of features are in the order of the elements.
    members
        Whether gradients of each member are wanted, rather than of their mean.

    Attributes
    ----------
    groups : int
        Gradients that are to be added up; with ``members`` one for each member.

    Raises
    ------
    DoesNotFit
        If the networks are too wide for the shared memory of the device.
    """

    def __init__(self, tables: NetworkTables, counts: Sequence[int], *, members: bool) -> None:
        self._tables, self.rows = tables, sum(counts)
        num_members = len(tables.layers)
        self.groups = num_members if members else 1
        if not self.rows:
            return
        problem = Problem(
            *(tables.end, tables.features, counts, num_members, tables.width, tables.deepest, tables.size, members)
        )
        probe = program("probe", {}, tables.device)  # any program tells what the device has
        self.plan = plan(problem, Device(probe.multiprocessors, probe.shared_limit))
        self.groups = self.plan.groups
        self._kernel = program("networks", _macros(self.plan.shape, tables.dtype), tables.device).kernel("networks")
        self._tasks = torch.tensor(tasks(counts, tables.work, self.plan), dtype=torch.int32, device=tables.device)
        numbers = {"rows": self.rows, "width": tables.width, "elements": len(counts), "members": num_members}
        numbers |= {"groups": self.groups, "deepest": tables.deepest}
        numbers |= {"hidden": self.plan.hidden, "split": int(self.plan.split)}
        seed = 1.0 if members else 1.0 / num_members
        self._arguments = fill(NetworksArguments(), **tables.tensors, tasks=self._tasks, **numbers, seed=seed)

    def launch(self, features: Tensor, row_energies: Tensor, gradients: Tensor | None = None) -> None:
        """Compute, without allocating memory or waiting.

        Parameters
        ----------
        features
            (rows, width) in the dtype of the weights, rows in the order of the elements.
        row_energies
            (members, rows), float64: written, Hartree.
        gradients
            (groups, rows, width): written; of the mean of all members, to be added up, or of each.
        """
        if not self.rows:
            return
        out = (features, *((gradients,) if gradients is not None else ()))
        tables = self._tables
        if (gradients is not None) != tables.gradients:
            raise ValueError(f"the networks were made {'with' if tables.gradients else 'without'} gradients")
        shapes = [(self.rows, tables.width), (self.groups, self.rows, tables.width)]
        for tensor, shape in zip(out, shapes, strict=False):
            if tensor.shape != shape or tensor.dtype != tables.dtype or not tensor.is_contiguous():
                raise ValueError(f"expected contiguous {tables.dtype} of shape {shape}, got {_told(tensor)}")
        expected = len(tables.layers), self.rows
        if row_energies.shape != expected or row_energies.dtype != torch.float64:
            raise ValueError(f"expected float64 energies {expected}, got {_told(row_energies)}")
        aligned = tables.width * tables.size % UNIT == 0 and all(t.data_ptr() % UNIT == 0 for t in out)
        fill(self._arguments, features=features, energies=row_energies, gradients=gradients, vectors=int(aligned))
        self._kernel.launch(len(self._tasks), self.plan.shape.threads, self._arguments, self.plan.shared)


def _told(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"


def _check(networks: Sequence[Sequence[Layer]], columns: Sequence[int]) -> None:
    for network in networks:
        if not 2 <= len(network) <= 32 or network[-1].weight.shape[0] != 1:
            raise ValueError(f"a network of {len(network)} layers and {network[-1].weight.shape[0]} outputs")
        if columns and not 0 <= min(columns) <= max(columns) < network[0].weight.shape[1]:
            raise ValueError(f"columns up to {max(columns)} of a weight of {network[0].weight.shape[1]}")
    tensors = [t for network in networks for layer in network for t in (layer.weight, layer.bias) if t is not None]
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) > 1 or not all(t.is_contiguous() for t in tensors):
        raise ValueError(f"weights are not contiguous, or of several kinds: {sorted(map(str, kinds))}")


def _places(network: Sequence[Layer], gradients: bool) -> Places:
    hidden = network[:-1]
    return places([layer.weight.shape[0] for layer in hidden], [layer.activation for layer in hidden], gradients)


def _work(network: Sequence[Layer], width: int) -> int:
    """Multiplications for each row."""
    return network[0].weight.shape[0] * width + sum(layer.weight.numel() for layer in network[1:])


def _specs(networks: Sequence[Sequence[Layer]], in_units: bool, gradients: bool) -> tuple[Any, list[int]]:
    """Return the structures of all layers, and of each network its first one.

    ``in_units`` says whether the columns of the first layers that are used are whole units.
    """
    specs: list[_LayerSpec] = []
    first = [0]
    for network in networks:
        at = _places(network, gradients) if network else Places([], [], 0, 0)
        for i, layer in enumerate(network):
            specs.append(_spec(layer, in_units or i > 0))
            if i < len(network) - 1:
                specs[-1].value, specs[-1].slope = at.value[i], at.slope[i]
            specs[-1].input = at.value[i - 1] if i else at.features
        first.append(len(specs))
    return (_LayerSpec * len(specs))(*specs), first


def _in_units(columns: Sequence[int], unit: int) -> bool:
    """Whether units of the columns are units of the weight."""
    starts = columns[::unit]
    units = [start + i for start in starts for i in range(unit)]
    return list(columns) == units and all(start % unit == 0 for start in starts)


def _spec(layer: Layer, in_units: bool) -> _LayerSpec:
    n_out, n_in = layer.weight.shape
    unit = UNIT // layer.weight.element_size()
    vectors = in_units and n_in % unit == 0 and layer.weight.data_ptr() % UNIT == 0
    return _LayerSpec(
        layer.weight.data_ptr(),
        None if layer.bias is None else layer.bias.data_ptr(),
        n_in,
        n_out,
        layer.activation,
        layer.parameter,
        vectors=int(vectors),
    )


def _macros(shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    return {"ANIPOT_ROWS": shape.rows, "ANIPOT_STAGES": shape.stages} | precision(dtype)


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Return all sources and macros that this module compiles."""
    dtypes = (torch.float32, torch.float64)
    return [("networks", _macros(s, dtype)) for dtype in dtypes for rows in SHAPES.values() for s in rows]
