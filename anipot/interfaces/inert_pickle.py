"""Read what ``torch.save`` wrote without running anything that the file says.

A pickle is a program. Here its steps are taken one by one, and only those that make numbers, strings, lists, dicts and
tensors are known. Whatever else a file names stays a name (`Name`), and whatever else it makes a `Record`.
"""

from __future__ import annotations

import math
import pickletools
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Name:
    """A class or function that a file names. Nothing is looked up."""

    module: str
    name: str

    @property
    def label(self) -> str:
        """The bare name of what belongs to SchNetPack or torch, the full one of anything else."""
        own = self.module.split(".")[0] in ("schnetpack", "torch")
        return self.name if own else f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What stands for an object: the name of its class (or of what was to be called), and its attributes."""

    kind: Name
    attributes: dict[str, Any] = field(default_factory=dict)


def read(path: Path) -> Any:
    """Return what a file of ``torch.save`` (1.6 or later) holds, with `Record` and `Name` for all that is not plain.

    Raises
    ------
    ValueError
        If the file is damaged, of another kind, or asks for more than plain data and tensors. It is named.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError(_no_archive(path))
        with zipfile.ZipFile(path) as archive:
            return _Machine(_Archive(archive)).run()
    except (ValueError, ArithmeticError, LookupError, OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a file of torch: {str(error)[:500]}") from error


def _no_archive(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(14)
    if start[2:] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"[:12]:  # the number at the start of old files
        return "it was saved in the old format; save it again with torch ≥ 1.6"
    return "it is no zip archive"


# Tensors.

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True, eq=False)
class _Storage:
    values: Tensor  # (numel,)


class _Archive:
    """The records of a zip archive that are those of ``torch.save``."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        found = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(found) != 1 or len(set(names)) != len(names):
            raise ValueError(f"its archive has {len(found)} records data.pkl (one is expected), or one name twice")
        self.archive, self.folder = archive, found[0].removesuffix("data.pkl")
        code = [name for name in names if re.search(r"(^|/)(constants\.pkl$|code/)", name)]
        if code:
            raise ValueError(f"it is an archive of TorchScript, which holds code ({code[0][:80]})")
        if self.folder + "byteorder" in names and self.record("byteorder").decode("ascii") != sys.byteorder:
            raise ValueError(f"its numbers are not in the byte order of this machine, {sys.byteorder} endian")
        self.storages: dict[str, _Storage] = {}

    def record(self, name: str) -> bytes:
        info = self.archive.getinfo(self.folder + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"its record {name} is compressed; torch.save writes plain ones")
        return self.archive.read(info)

    def storage(self, identity: Any) -> _Storage:
        """Return the storage of a persistent identity ("storage", class, key, location, number of elements)."""
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise ValueError("it refers to something outside that is no storage of a tensor")
        kind, key, numel = identity[1], identity[2], identity[4]
        if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in _DTYPES:
            label = kind.label if isinstance(kind, Name) else type(kind).__name__
            raise ValueError(f"a storage is of the type {label[:80]}; known: {', '.join(_DTYPES)}")
        if not isinstance(key, str) or not re.fullmatch(r"[0-9]{1,9}", key) or not _is_size(numel):
            raise ValueError("a storage has no number for a key, or no length")
        dtype = _DTYPES[kind.name]
        if key not in self.storages:
            self.storages[key] = _Storage(_tensor(self.record(f"data/{key}"), dtype, numel, key))
        found = self.storages[key]
        if found.values.dtype != dtype or len(found.values) != numel:
            raise ValueError(f"storage {key} is described in two ways")
        return found


def _tensor(data: bytes, dtype: torch.dtype, numel: int, key: str) -> Tensor:
    if len(data) != numel * dtype.itemsize:
        raise ValueError(f"storage {key} has {len(data)} bytes, but {numel} × {dtype.itemsize} are announced")
    if dtype == torch.bool and data.translate(None, b"\0\1"):
        raise ValueError(f"storage {key} has truth values that are neither 0 nor 1")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _rebuild_tensor(args: tuple[Any, ...]) -> Tensor:
    """Return a tensor from (storage, offset, size, stride, requires_grad, hooks, metadata)."""
    if len(args) not in (6, 7) or not isinstance(args[0], _Storage) or args[5] or (len(args) == 7 and args[6]):
        raise ValueError("a tensor has no storage, or hooks or metadata")
    values, offset, size, stride = args[0].values, *args[1:4]
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not 0 <= len(size) == len(stride) <= 8:
        raise ValueError("a tensor has no sizes, or not as many strides")
    if not all(_is_size(number) for number in (offset, *size, *stride)):
        raise ValueError("a tensor has sizes, strides or an offset that are not integers ≥ 0")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if numel else 0
    if numel > len(values) or last >= max(len(values), 1) or offset > len(values):
        raise ValueError(f"a tensor of {numel} elements up to {last} is outside its storage of {len(values)}")
    return values.as_strided(size, stride, offset)


def _rebuild_parameter(args: tuple[Any, ...]) -> Tensor:
    if len(args) != 3 or not isinstance(args[0], Tensor) or args[2]:
        raise ValueError("a parameter has no tensor, or hooks")
    return args[0]


def _empty_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        raise ValueError("an OrderedDict is made of something")
    return {}


def _set(args: tuple[Any, ...]) -> set[Any]:
    if len(args) > 1 or (args and not isinstance(args[0], list)):
        raise ValueError("a set is not made of a list")
    return {_key(item) for item in (args[0] if args else ())}


#: All that a file may call; own functions, which no file gets hold of.
_CALLS: dict[Name, Callable[[tuple[Any, ...]], Any]] = {
    Name("collections", "OrderedDict"): _empty_dict,
    Name("builtins", "set"): _set,
    Name("__builtin__", "set"): _set,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


# The steps of a pickle.

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_LITERALS |= {"BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_EMPTY: dict[str, type] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _key(key: Any) -> Any:
    """Return a key of a dict or set, which must be cheap to hash."""
    if not isinstance(key, (str, int, float, bool, bytes, Name, type(None))):
        raise ValueError(f"a dict or set has a key of type {type(key).__name__}")
    return key


class _Machine:
    """Takes the steps of a pickle."""

    def __init__(self, archive: _Archive) -> None:
        self.archive = archive
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for code, arg, _ in pickletools.genops(self.archive.record("data.pkl")):
            if code.name == "STOP":
                return self.stack.pop()
            self.step(code.name, arg)

    def step(self, name: str, arg: Any) -> None:
        push = self.stack.append
        if name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _LITERALS:
            push(arg)
        elif name in _EMPTY:
            push(_EMPTY[name]())
        elif name in _TUPLES:
            push(tuple(reversed([self.stack.pop() for _ in range(_TUPLES[name])])))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else arg] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[arg])
        elif name in _ACTIONS:
            _ACTIONS[name](self, arg)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has the step {name}, which is not known here")

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def make_tuple(self, _: Any) -> None:
        items = self.to_mark()
        self.stack.append(tuple(items))

    def name(self, arg: str | None) -> None:
        """Put a name on the stack, from the text of the step or from the stack."""
        module, name = arg.split(" ", 1) if arg is not None else (self.stack.pop(-2), self.stack.pop())
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("the name of a class is no text")
        self.stack.append(Name(module, name))

    def call(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(args, tuple):
            raise ValueError("its pickle calls something that is no function")
        self.stack.append(_CALLS[function](args) if function in _CALLS else Record(function))

    def new(self, _: Any) -> None:
        self.stack.pop()
        kind = self.stack.pop()
        if not isinstance(kind, Name):
            raise ValueError("its pickle makes an object of something that is no class")
        self.stack.append(Record(kind))

    def new_ex(self, arg: Any) -> None:
        self.stack.pop()
        self.new(arg)

    def build(self, _: Any) -> None:
        """Set the attributes of a record; those of a dict (the metadata of a state dict) are passed over."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (Record, dict)):
            raise ValueError(f"its pickle changes a {type(target).__name__}, not an object of its own")
        if isinstance(target, Record) and isinstance(state, dict):
            target.attributes.update({name: value for name, value in state.items() if isinstance(name, str)})

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(_key(item) for item in items)
        elif not isinstance(target, Record):
            raise ValueError(f"its pickle appends to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict) and len(items) % 2 == 0:
            target.update({_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)})
        elif not isinstance(target, Record):
            raise ValueError(f"its pickle sets items of a {type(target).__name__}")


_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_tuple,
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.to_mark(),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "NEWOBJ_EX": _Machine.new_ex,
    "BUILD": _Machine.build,
    "BINPERSID": lambda machine, _: machine.stack.append(machine.archive.storage(machine.stack.pop())),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.to_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
}
