"""Networks of all elements and members on a GPU: energies of atoms and gradients of their features, in one launch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from anipot.kernels.cuda.network_plan import SHAPES, UNIT, Device, Places, Problem, Shape, places, plan, tasks
from anipot.kernels.cuda.program import Arguments, Program, f64, fill, i64, pointer, precision, program


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


class Networks:
    """Networks of all elements and members for fixed numbers of rows of each element.

    Parameters
    ----------
    layers
        For each member and element the dense layers of its network, two at least, with one output; empty for elements
        without rows. Weights and biases are on one device and of one dtype, contiguous, and are read where they are at
        every launch. Members may differ in widths and depths.
    counts
        Rows of each element: rows of features are in the order of the elements.
    columns
        For each column of the features, that of the first weights.
    gradients
        Whether gradients of the features are wanted.
    members
        Whether of each member, rather than of their mean.

    Attributes
    ----------
    groups : int
        Gradients that are to be added up; with ``members`` one for each member.

    Raises
    ------
    DoesNotFit
        If the networks are too wide for the shared memory of the device.
    ValueError
        If the layers are not such.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Sequence[Layer]]],
        counts: Sequence[int],
        columns: Sequence[int],
        *,
        gradients: bool,
        members: bool,
    ) -> None:
        used = [network for networks in layers for network, n in zip(networks, counts, strict=True) if n]
        _check(used, columns)
        self._layers = layers  # which keep the memory of the weights
        self._gradients, self.rows, self.width = gradients, sum(counts), len(columns)
        self.groups = len(layers) if members else 1
        if not used:
            return
        weight = used[0][0].weight
        self._dtype = weight.dtype
        build = partial(_build, dtype=weight.dtype, device=weight.device)
        problem = Problem(
            [_places(network, gradients) for network in used],
            counts,
            len(layers),
            self.width,
            max(map(len, used)),
            weight.element_size(),
            members,
        )
        probe = program("probe", {}, weight.device)  # any program tells what the device has
        self.plan = plan(problem, Device(probe.multiprocessors, probe.shared_limit))
        self.groups = self.plan.groups
        self._kernel = build(self.plan.shape).kernel("networks")
        specs, first = _specs(layers, counts, _in_units(columns, UNIT // weight.element_size()), gradients)
        work = [_work(network, self.width) if n else 0 for network, n in zip(layers[0], counts, strict=True)]
        to_device = partial(torch.tensor, dtype=torch.int32, device=weight.device)
        self._tables = [
            torch.frombuffer(bytearray(specs), dtype=torch.int64).to(weight.device),
            *map(to_device, (first, tasks(counts, work, self.plan), columns)),
        ]
        names = ("layers", "first_layer", "tasks", "columns")
        numbers = {"rows": self.rows, "width": self.width, "elements": len(counts), "members": len(layers)}
        numbers |= {"groups": self.groups, "deepest": problem.deepest}
        numbers |= {"hidden": self.plan.hidden, "split": int(self.plan.split)}
        seed = 1.0 if members else 1.0 / len(layers)
        tables = dict(zip(names, self._tables, strict=True))
        self._arguments = fill(NetworksArguments(), **tables, **numbers, seed=seed)

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
        if (gradients is not None) != self._gradients:
            raise ValueError(f"the networks were made {'with' if self._gradients else 'without'} gradients")
        shapes = [(self.rows, self.width), (self.groups, self.rows, self.width)]
        for tensor, shape in zip(out, shapes, strict=False):
            if tensor.shape != shape or tensor.dtype != self._dtype or not tensor.is_contiguous():
                raise ValueError(f"expected contiguous {self._dtype} of shape {shape}, got {_told(tensor)}")
        if row_energies.shape != (len(self._layers), self.rows) or row_energies.dtype != torch.float64:
            raise ValueError(f"expected float64 energies ({len(self._layers)}, {self.rows}), got {_told(row_energies)}")
        aligned = self.width * features.element_size() % UNIT == 0 and all(t.data_ptr() % UNIT == 0 for t in out)
        fill(self._arguments, features=features, energies=row_energies, gradients=gradients, vectors=int(aligned))
        self._kernel.launch(len(self._tables[2]), self.plan.shape.threads, self._arguments, self.plan.shared)


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


def _build(shape: Shape, dtype: torch.dtype, device: torch.device) -> Program:
    return program("networks", _macros(shape, dtype), device)


def _places(network: Sequence[Layer], gradients: bool) -> Places:
    hidden = network[:-1]
    return places([layer.weight.shape[0] for layer in hidden], [layer.activation for layer in hidden], gradients)


def _work(network: Sequence[Layer], width: int) -> int:
    """Multiplications for each row."""
    return network[0].weight.shape[0] * width + sum(layer.weight.numel() for layer in network[1:])


def _specs(
    layers: Sequence[Sequence[Sequence[Layer]]], counts: Sequence[int], in_units: bool, gradients: bool
) -> tuple[Any, list[int]]:
    """Return the structures of all layers, and of each network its first one.

    ``in_units`` says whether the columns of the first layers that are used are whole units.
    """
    specs: list[_LayerSpec] = []
    first = [0]
    for networks in layers:
        for network, n in zip(networks, counts, strict=True):
            if n:
                at = _places(network, gradients)
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
