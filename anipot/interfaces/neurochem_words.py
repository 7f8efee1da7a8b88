"""The words of a NeuroChem training file, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

#: A remark to the end of its line, a sign, or a word.
_TOKEN = re.compile(r"!.*|[\[\]{}$;=]|[^\s\[\]{}$;=!]+")


class Words:
    """Words that are taken one after the other; what does not fit is refused with its line."""

    def __init__(self, text: str, name: str) -> None:
        self._name = name
        self._tokens = list(_tokens(text))
        self._position = 0

    def peek(self) -> str | None:
        return self._tokens[self._position][0] if self._position < len(self._tokens) else None

    def where(self) -> str:
        position = min(self._position, len(self._tokens) - 1)
        return f"{self._name}, line {self._tokens[position][1] if self._tokens else 1}"

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if token is None or (expected is not None and token != expected):
            found = "the end of the file" if token is None else repr(token)
            raise ValueError(f"{self.where()}: expected {expected or 'a word'!r}, got {found}")
        self._position += 1
        return token

    def assignment(self) -> tuple[str, Any]:
        key = self.take()
        if not re.fullmatch(r"[A-Za-z_]\w*", key):
            self._position -= 1
            raise ValueError(f"{self.where()}: expected name=value, got {key!r}")
        line = self.where()
        self.take("=")
        if self.where() != line:
            raise ValueError(f"{line}: {key} has no value")
        value = self.take()
        if not re.fullmatch(r"[\w.,+/\\:-]+", value):
            self._position -= 1
            raise ValueError(f"{self.where()}: {key} has no value, got {value!r}")
        return key, _value(value)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _TOKEN.finditer(line):
            if not match[0].startswith("!"):
                yield match[0], number


def _value(word: str) -> int | float | str:
    """Return a whole number, a number or a word.

    >>> _value("100"), _value("1.0E-5"), _value("networks/")
    (100, 1e-05, 'networks/')
    """
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
