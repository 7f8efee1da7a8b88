"""The native library: finding it, its C structures, and which path the library takes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

#: Must match csrc/interface.cpp.
INTERFACE = 9

_HERE = Path(__file__).parent
_reference_only = False
_choices = 0


class AevSpec(ctypes.Structure):
    """Constants of an AEV; see csrc/spec.h for all of these structures."""

    _fields_ = [
        *[(name, c_double) for name in ("Rcr", "Rca", "cutoff_eps")],
        *[(name, c_int32) for name in ("num_species", "cutoff_kind", "cutoff_order")],
        *[(f"num_{name}", c_int32) for name in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")],
        *[(name, c_void_p) for name in ("EtaR", "ShfR", "EtaA", "Zeta", "ShfA", "ShfZ")],
    ]


class LayerSpec(ctypes.Structure):
    _fields_ = [
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("parameter", c_double),
        ("n_in", c_int32),
        ("n_out", c_int32),
        ("activation", c_int32),
    ]


class HeadSpec(ctypes.Structure):
    _fields_ = [
        ("members", c_int32),
        ("num_species", c_int32),
        ("first_layer", POINTER(c_int32)),
        ("layers", POINTER(LayerSpec)),
        ("self_energies", c_void_p),
        ("intercept", c_int32),
    ]


class SystemSpec(ctypes.Structure):
    _fields_ = [
        ("num_molecules", c_int64),
        ("num_atoms", c_int64),
        ("species", c_void_p),
        ("index_of", c_void_p),
        ("num_index", c_int64),
        ("coordinates", c_void_p),
        ("cell", c_void_p),
        ("pbc", c_void_p),
        ("cell_stride", c_int64),
        ("pbc_stride", c_int64),
        ("wide_coordinates", c_int32),
    ]


class ResultSpec(ctypes.Structure):
    _fields_ = [
        ("energies", c_void_p),
        ("atomic_energies", c_void_p),
        ("forces", c_void_p),
        ("stress", c_void_p),
        ("members", c_int32),
        ("threads", c_int32),
        ("skin", c_double),
        ("present", POINTER(c_int32)),
    ]


class PairsSpec(ctypes.Structure):
    _fields_ = [
        ("num_pairs", c_int64),
        ("num_atoms", c_int64),
        ("center", c_void_p),
        ("neighbor_species", c_void_p),
        ("vectors", c_void_p),
        ("wide", c_int32),
        ("threads", c_int32),
    ]


class RowsSpec(ctypes.Structure):
    _fields_ = [
        *[(name, c_int64) for name in ("num_rows", "num_features")],
        *[(name, c_void_p) for name in ("features", "species", "order", "state")],
        ("state_width", c_int64),
        *[(name, c_int32) for name in ("wide", "threads", "sparse")],
    ]


class VectorsSpec(ctypes.Structure):
    _fields_ = [
        *[(name, c_int64) for name in ("num_pairs", "num_molecules", "num_atoms")],
        *[(name, c_void_p) for name in ("center", "neighbor", "shift")],
        *[(name, c_int32) for name in ("wide", "threads")],
    ]


class PairsResult(ctypes.Structure):
    _fields_ = [("center", c_void_p), ("neighbor", c_void_p), ("shift", c_void_p)]


class MessageSpec(ctypes.Structure):
    _fields_ = [
        *[(name, c_int64) for name in ("num_pairs", "num_atoms", "num_features", "components")],
        *[(name, c_void_p) for name in ("first", "second", "starts", "entries", "x", "y", "w", "u")],
        *[(name, c_int64) for name in ("x_stride", "y_stride", "w_stride", "num_batches")],
        *[(name, c_int64) for name in ("x_batch", "y_batch", "w_batch", "u_batch", "out_batch")],
        ("out", c_void_p),
        *[(name, c_int32) for name in ("kind", "wide", "threads")],
    ]


class FilterSpec(ctypes.Structure):
    _fields_ = [
        ("num_pairs", c_int64),
        *[(name, c_void_p) for name in ("distances", "centers", "gammas")],
        ("layers", POINTER(LayerSpec)),
        *[(name, c_void_p) for name in ("filters", "slopes")],
        *[(name, c_double) for name in ("cutoff", "cutoff_eps")],
        *[(name, c_int32) for name in ("cutoff_kind", "cutoff_order", "wide", "threads")],
    ]


class Backend(NamedTuple):
    """One way to compute, and whether and why it is used."""

    name: str
    available: bool
    active: bool
    reason: str


class _Loaded(NamedTuple):
    library: Any
    reason: str


@cache
def _load() -> _Loaded:
    wanted = os.environ.get("ANIPOT_KERNELS", "")
    path = Path(wanted or _HERE / _file_name())
    if wanted and not path.is_file():
        return _Loaded(None, f"no native kernels: ANIPOT_KERNELS={wanted} is not a file")
    if not path.is_file():
        note = _HERE / "_native.txt"
        why = note.read_text().strip() if note.is_file() else "they were not built when anipot was installed"
        return _Loaded(None, f"no native kernels: {why}")
    try:
        library = ctypes.CDLL(str(path))
        found = library.anipot_interface()
    except (OSError, AttributeError) as error:
        return _Loaded(None, f"{path.name} cannot be loaded: {error}")
    if found != INTERFACE:
        return _Loaded(None, f"{path.name} is of another version (interface {found}, not {INTERFACE}); install again")
    _declare(library)
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)  # of the OpenMP library that torch has loaded
    library.anipot_use_team(ctypes.cast(parallel, c_void_p) if parallel else None)
    wanted = os.environ.get("ANIPOT_ISA", "")
    if wanted and not library.anipot_choose(wanted.encode()):
        return _Loaded(None, f"ANIPOT_ISA={wanted} is not an instruction set of this machine")
    return _Loaded(library, "")


def _file_name() -> str:
    return "_native.dylib" if sys.platform == "darwin" else "_native.so"


def _declare(library: Any) -> None:
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "anipot_isa": (c_char_p, []),
        "anipot_choose": (c_int, [c_char_p]),
        "anipot_new_engine": (c_void_p, [c_int]),
        "anipot_delete_engine": (None, [c_void_p]),
        "anipot_searches": (c_int64, [c_void_p]),
        "anipot_evaluate": (c_int, [c_void_p] * 5),
        "anipot_aev": (c_int, [c_int] + [c_void_p] * 5),
        "anipot_networks": (c_int, [c_int] + [c_void_p] * 7),
        "anipot_hessian": (c_int, [c_void_p] * 7 + [c_int64]),
        "anipot_vectors": (c_int64, [c_void_p] * 4 + [c_double]),
        "anipot_vectors_backward": (c_int, [c_void_p] * 4),
        "anipot_use_team": (None, [c_void_p]),
        "anipot_find_pairs": (c_int64, [c_void_p, c_int, c_double, c_int, c_void_p]),
        "anipot_copy_pairs": (c_int, [c_void_p, c_void_p, c_int]),
        "anipot_delete_list": (None, [c_void_p]),
        "anipot_incidence": (None, [c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_void_p]),
        "anipot_messages": (c_int, [c_int, c_void_p]),
        "anipot_softplus": (c_int, [c_int, c_void_p, c_void_p, c_void_p, c_int64, c_int, c_int]),
        "anipot_filters": (c_int, [c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def library() -> Any:
    """Return the native library, or None where it is absent or switched off."""
    return None if _reference_only else _load().library


def switched_off() -> bool:
    """Whether plain torch operations compute everything, as within ``reference_path()``."""
    return _reference_only


def _there() -> bool:
    return _load().library is not None


#: A compiler takes the answer as it is when it traces: what ``torch.compiler.assume_constant_result`` sets, which would
#: import half of torch.
_there._dynamo_marked_constant = True  # type: ignore[attr-defined]


def available() -> bool:
    """Whether there is a native library, and it is not switched off; ``torch.compile`` can trace this."""
    return not _reference_only and _there()


def plain_autograd(*tensors: Tensor) -> bool:
    """Whether nothing but ordinary reverse-mode autograd (and vmap) watches these tensors.

    The operations have no forward-mode derivatives, and torch.func's transforms are not given to them by torch.
    """
    if torch.compiler.is_compiling():
        return True
    if forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        return False
    if torch._C._functorch.peek_interpreter_stack() is None:
        return True
    stack = torch._C._functorch.get_interpreter_stack() or []
    return all(level.key() == torch._C._functorch.TransformType.Vmap for level in stack)


@contextmanager
def reference_path() -> Iterator[None]:
    """Compute with plain torch operations inside this context, whatever kernels there are: for comparison.

    Holds for the whole process, not for one thread.

    Examples
    --------
    >>> import anipot
    >>> with anipot.reference_path():
    ...     [backend.name for backend in anipot.backends() if backend.active]
    ['torch']
    """
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Use the kernels of one instruction set, such as "baseline", inside this context: for tests.

    Raises
    ------
    ValueError
        If this machine, or this build, does not have it.
    """
    native = _load().library
    if native is None:
        raise ValueError(_load().reason)
    global _choices
    before = native.anipot_isa()
    if not native.anipot_choose(name.encode()):
        raise ValueError(f"this machine has no {name}; the kernels run with {before.decode()}")
    _choices += 1
    try:
        yield
    finally:
        native.anipot_choose(before)
        _choices += 1


def choices() -> int:
    """Return how often the instruction set has changed: objects of the library keep to the one they were made for."""
    return _choices


def cpu_backend() -> Backend:
    """Return the native kernels, and why they are used or not."""
    loaded = _load()
    native = loaded.library is not None
    if native:
        isa = loaded.library.anipot_isa().decode()
        why = "switched off by reference_path()" if _reference_only else f"native kernels for the CPU, {isa}"
    else:
        why = loaded.reason
    return Backend("cpu-native", native, native and not _reference_only, why)


def cuda_backend() -> Backend | None:
    """Return the kernels for torch's current GPU, and why they are used or not; None where there is no GPU."""
    if not torch.cuda.is_available():
        return None
    from anipot.kernels.cuda import support

    index = torch.cuda.current_device()
    why = support.reason(index)
    if why:
        return Backend("cuda", False, False, why)
    said = "switched off by reference_path()" if _reference_only else support.description(index)
    return Backend("cuda", True, not _reference_only, said)


def backends() -> list[Backend]:
    """Return the ways to compute, the fastest first, and why each is used or not.

    Examples
    --------
    >>> import anipot
    >>> anipot.backends()[-1].name
    'torch'
    """
    cuda, native = cuda_backend(), cpu_backend()
    covered = [*(["the CPU"] if native.active else []), *(["CUDA"] if cuda and cuda.active else [])]
    rest = f": for devices other than {' and '.join(covered)}, and models the kernels do not cover" if covered else ""
    torch_ops = Backend("torch", True, not native.active, f"plain torch operations{rest}")
    return [*([cuda] if cuda else []), native, torch_ops]
