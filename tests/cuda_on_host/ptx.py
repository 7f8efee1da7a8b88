"""What NVRTC makes of the kernels, translated to C++, one instruction after the other.

The source compiled for the host tests algorithms; this tests the code that GPUs get: what the compiler has made of
intrinsics, inline assembly, branches and memory accesses. Only the last step, to machine code, is not seen.
Instructions for shared memory are checked for bounds, those for any memory for alignment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TYPES = {
    **{f"{letter}{bits}": f"uint{bits}_t" for letter in "ub" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": f"int{bits}_t" for bits in (8, 16, 32, 64)},
    **{"f32": "float", "f64": "double", "pred": "bool"},
}
_SIZES = {name: 1 if name == "pred" else int(name[1:]) // 8 for name in _TYPES}
_SPACES = ("global", "shared", "local", "param", "const")
_REGISTER = re.compile(r"%[a-zA-Z]+\d*$")
_ENTRY = re.compile(r"\.visible \.entry (\w+)\(\s*\.param \.align \d+ \.b8 \w+\[(\d+)\]\s*\)(.*?)\n\{(.*?)\n\}\n", re.S)
_VARIABLE = re.compile(
    r"\.(global|const|shared|local)\s+\.align\s+(\d+)\s+\.(\w+)\s+(\w+)(?:\[(\d+)\])?(?:\s*=\s*(.+))?$"
)


class NotKnown(ValueError):
    """An instruction that is not translated."""


def translate(text: str) -> str:
    """Return C++ for a program in PTX, to be compiled with ptx_on_host.h."""
    text = re.sub(r"//[^\n]*", "", text)
    entries = list(_ENTRY.finditer(text))
    parts = ['#include "ptx_on_host.h"', *_globals(_ENTRY.sub("", text))]
    for entry in entries:
        name, size, bounds, body = entry.groups()
        threads = re.search(r"\.maxntid (\d+), 1, 1", bounds)
        if threads is None:
            raise NotKnown(f"{name} has no number of threads")
        parts.append(f'extern "C" int {name}_threads() {{ return {threads[1]}; }}')
        parts.append(f'extern "C" int {name}_size() {{ return {size}; }}')
        parts.append(_Kernel(name, body).text())
    return "\n".join(parts) + "\n"


def _globals(text: str) -> Iterator[str]:
    for statement in re.findall(r"\.(?:global|const)\s[^;]*", text):
        found = _VARIABLE.match(statement.strip())
        if found is None:
            raise NotKnown(statement)
        _, align, kind, name, count, value = found.groups()
        given = "{" + value.strip("{} \n") + "}" if value else "{}"
        yield f"alignas({align}) static {_TYPES[kind]} {name}[{count or 1}] = {given};"


@dataclass
class _Kernel:
    """One function."""

    name: str
    body: str
    #: Where variables stand in shared memory; that of dynamic size comes after all others.
    shared: dict[str, int] = field(default_factory=dict)
    local: set[str] = field(default_factory=set)
    size: int = 0
    line: int = 0

    def text(self) -> str:
        given = enumerate(self.body.split("\n"))  # the first is the rest of the line with the brace
        lines = [line for number, raw in given for line in self._line(number, raw.strip())]
        return "\n".join(
            [
                f"static const bool {self.name}_reserved = ptx::reserve({self.size});",
                f'extern "C" void {self.name}(const void* parameters) {{',
                f"    const uint64_t static_end = {self.size};",
                *lines,
                "}",
            ]
        )

    def _line(self, number: int, line: str) -> Iterator[str]:
        self.line = number
        if line in ("{", "}"):
            yield line
            return
        for part in (piece.strip() for piece in line.split(";")):
            label = re.match(r"\$(\w+):$", part)
            if label:
                yield f"{label[1]}:;"
            elif part:
                yield from self._statement(part)

    def _statement(self, text: str) -> Iterator[str]:
        if text.startswith(".pragma"):
            return
        registers = re.match(r"\.reg \.(\w+)\s+%(\w+)(?:<(\d+)>)?$", text)
        variable = _VARIABLE.match(text)
        if registers:
            kind, name, count = registers.groups()
            names = [f"{name}_{i}" for i in range(int(count))] if count else [name + "_"]
            yield f"    {'bool' if kind == 'pred' else f'uint{8 * _SIZES[kind]}_t'} {', '.join(names)};"
        elif variable:
            self._place(variable)
            if variable[1] == "local":
                yield f"    alignas({variable[2]}) unsigned char {variable[4]}[{variable[5]}];"
        else:
            guard = re.match(r"@(!?)%(\w+?)(\d+)\s+(.*)$", text)
            condition = f"if ({guard[1]}{guard[2]}_{guard[3]}) " if guard else ""
            try:
                yield f"    {condition}{{ {self._instruction(guard[4] if guard else text)} }}"
            except (KeyError, ValueError, TypeError, IndexError, StopIteration) as error:
                raise NotKnown(f"{self.name}, line {self.line}: {text} ({error})") from error

    def _place(self, variable: re.Match[str]) -> None:
        space, align, kind, name, count, _ = variable.groups()
        if space == "local":
            self.local.add(name)
            return
        self.size = -(-self.size // int(align)) * int(align)
        self.shared[name] = self.size
        self.size += _SIZES[kind] * int(count or 1)

    def _instruction(self, text: str) -> str:
        operation, _, rest = text.partition(" ") if " " in text else text.partition("\t")
        operands = [part.strip() for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", rest) if part.strip()]
        name, *words = operation.split(".")
        name += "_" if name in ("and", "or", "xor", "not") else ""  # words of C++
        special = getattr(self, f"_{name}", None)
        if special is not None:
            return special(words, operands)
        types = [_TYPES[word] for word in words if word in _TYPES]
        function = "_".join([name, *(word for word in words if word not in _TYPES)])
        wanted = [types[-1]] * len(operands)
        if name in ("shl", "shr"):
            wanted[2] = "uint32_t"
        elif name in ("selp", "setp") and len(operands) > 3:
            wanted[3] = "bool"
        elif function == "mad_wide":
            wanted[3] = types[-1].replace("32", "64").replace("16", "32")
        values = [self._get(kind, operand) for kind, operand in zip(wanted[1:], operands[1:], strict=True)]
        return self._set(operands[0], f"ptx::{function}<{', '.join(types)}>({', '.join(values)})")

    # ---- operands ---------------------------------------------------------------------------------------------------

    def _register(self, operand: str) -> str:
        found = re.match(r"%([a-zA-Z]+)(\d*)$", operand)
        if not found:
            raise ValueError(f"{operand} is no register")
        return f"{found[1]}_{found[2]}"

    def _get(self, kind: str, operand: str) -> str:
        special = re.match(r"%(tid|ntid|ctaid|nctaid)\.([xyz])$", operand)
        if special:
            return f"({kind})ptx::{special[1]}_{special[2]}()"
        if _REGISTER.match(operand):
            return f"ptx::get<{kind}>({self._register(operand)})"
        if re.match(r"0[fF][0-9a-fA-F]{8}$", operand):
            return f"ptx::get<float>(uint32_t(0x{operand[2:]}))"
        if re.match(r"0[dD][0-9a-fA-F]{16}$", operand):
            return f"ptx::get<double>(uint64_t(0x{operand[2:]}))"
        if re.match(r"-?(0x)?[0-9a-fA-F]+U?$", operand):
            return f"({kind}){int(operand.rstrip('U'), 0)}{'ull' if int(operand.rstrip('U'), 0) > 2**62 else 'll'}"
        return f"({kind}){self._symbol(operand)}"

    def _symbol(self, name: str) -> str:
        """Return the address of a variable in the space that it is in."""
        if name in self.shared:
            return f"{self.shared[name]}ull"
        if name == "dynamic_shared":
            return "ptx::up_to_16(static_end)"
        if name == f"{self.name}_param_0":
            return "(uint64_t)parameters"
        return f"(uint64_t){name}"

    def _set(self, operand: str, value: str) -> str:
        if operand == "_":
            return f"(void)({value});"
        return f"ptx::set({self._register(operand)}, {value});"

    def _address(self, operand: str, space: str, size: int) -> str:
        found = re.match(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\d+))?\s*\]$", operand)
        if not found:
            raise ValueError(f"{operand} is no address")
        base = found[1]
        at = f"(uint64_t){self._register(base)}" if base.startswith("%") else self._symbol(base)
        at = f"{at} + {found[2]}ll" if found[2] else at
        where = f"{size}, {self.line}"
        return f"ptx::shared_at({at}, static_end, {where})" if space == "shared" else f"ptx::memory_at({at}, {where})"

    # ---- instructions that do more than compute one value of others -------------------------------------------------

    def _mov(self, words: list[str], operands: list[str]) -> str:
        kind, (to, of) = words[-1], operands
        if to.startswith("{") or of.startswith("{"):
            names = [part.strip() for part in (to if to.startswith("{") else of).strip("{}").split(",")]
            part = f"uint{8 * _SIZES[kind] // len(names)}_t"
            if to.startswith("{"):
                parts = (f"ptx::part<{part}>({self._get(_TYPES[kind], of)}, {i})" for i in range(len(names)))
                return " ".join(self._set(name, value) for name, value in zip(names, parts, strict=True))
            values = ", ".join(self._get(part, name) for name in names)
            return self._set(to, f"ptx::packed<{_TYPES[kind]}, {part}>({{{values}}})")
        return self._set(to, self._get(_TYPES[kind], of))

    def _ld(self, words: list[str], operands: list[str]) -> str:
        kind, names = _TYPES[words[-1]], [part.strip() for part in operands[0].strip("{}").split(",")]
        space, each = next((word for word in words if word in _SPACES), ""), _SIZES[words[-1]]
        address = self._address(operands[1], space, each * len(names))
        values = [self._set(name, f"from[{i}]") for i, name in enumerate(names)]
        return f"const {kind}* from = (const {kind}*){address}; {' '.join(values)}"

    def _st(self, words: list[str], operands: list[str]) -> str:
        kind, names = _TYPES[words[-1]], [part.strip() for part in operands[1].strip("{}").split(",")]
        space, each = next((word for word in words if word in _SPACES), ""), _SIZES[words[-1]]
        address = self._address(operands[0], space, each * len(names))
        values = [f"to[{i}] = {self._get(kind, name)};" for i, name in enumerate(names)]
        return f"{kind}* to = ({kind}*){address}; {' '.join(values)}"

    def _atom(self, words: list[str], operands: list[str]) -> str:
        kind, what = _TYPES[words[-1]], next(word for word in words if word in ("add", "max", "min", "exch", "or"))
        address = self._address(operands[1], "shared" if "shared" in words else "", _SIZES[words[-1]])
        return self._set(operands[0], f"ptx::atom_{what}(({kind}*){address}, {self._get(kind, operands[2])})")

    def _red(self, words: list[str], operands: list[str]) -> str:
        return self._atom(words, ["_", *operands])

    def _cvta(self, words: list[str], operands: list[str]) -> str:
        value = self._get("uint64_t", operands[1])
        if "shared" in words:
            value = f"ptx::{'to' if 'to' in words else 'of'}_shared({value}, static_end)"
        return self._set(operands[0], value)

    def _bra(self, words: list[str], operands: list[str]) -> str:
        return f"goto {operands[0].lstrip('$')};"

    def _ret(self, words: list[str], operands: list[str]) -> str:
        return "return;"

    def _bar(self, words: list[str], operands: list[str]) -> str:
        if words[0] == "warp":
            return f"ptx::all_lanes({self._get('uint32_t', operands[0])}); host::collective({self.line});"
        if operands != ["0"]:
            raise ValueError("a barrier of its own number, or for some threads")
        return "__syncthreads();"

    def _shfl(self, words: list[str], operands: list[str]) -> str:
        to, _, inside = operands[0].partition("|")
        value, by, clamp, lanes = (self._get("uint32_t", operand) for operand in operands[1:])
        moved = f"ptx::shfl_{words[1]}({self.line}, {value}, {by}, {clamp}, {lanes}, inside)"
        rest = self._set(inside, "inside") if inside else ""
        return f"bool inside; {self._set(to, moved)} {rest}"

    def _vote(self, words: list[str], operands: list[str]) -> str:
        value, lanes = self._get("bool", operands[1]), self._get("uint32_t", operands[2])
        return self._set(operands[0], f"ptx::vote_{words[1]}({self.line}, {value}, {lanes})")

    def _cp(self, words: list[str], operands: list[str]) -> str:
        if words[1] == "commit_group":
            return "end_copies();"
        if words[1] == "wait_group":
            return f"await_copies<{operands[0]}>();"
        size = int(operands[2])
        if words[1] not in ("cg", "ca") or (words[1] == "cg" and size != 16):
            raise ValueError("no such copy")
        there = f"ptx::whole({self._get('uint32_t', operands[3])}, {size})"
        to, of = self._address(operands[0], "shared", size), self._address(operands[1], "", size)
        return f"copy_later<{size}>({to}, (const unsigned char*){of}, {there});"
