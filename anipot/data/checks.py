"""What makes a record bad, and what a look at all of them found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from anipot.data.blocks import DataError
from anipot.data.faults import KINDS
from anipot.data.rows import Rows

#: Records that a report shows of each kind.
SHOWN = 10


@dataclass(frozen=True)
class Checks:
    """What makes a record bad, beside what no model could compute.

    Labels that are missing (NaN) are no fault; ``AtomsDataset.filter(has=...)`` leaves such structures out.

    Attributes
    ----------
    elements
        Symbols that may occur; any by default.
    max_force
        Hartree/Å: a longer force on an atom is absurd. None for any.
    min_distance
        Å: closer atoms are on top of each other. None for any.
    max_deviation
        Energies are bad whose value per atom, less robust self energies, is further from the median than this many
        robust standard deviations. None for any; otherwise the data are read twice.
    duplicates
        Whether the same structure may not come twice; the first is kept. Takes 8 bytes for each structure.
    """

    elements: Sequence[str] | None = None
    max_force: float | None = 10.0
    min_distance: float | None = 0.3
    max_deviation: float | None = None
    duplicates: bool = False


@dataclass(frozen=True)
class BadRecord:
    """One fault: its kind, where the record stands, its row in the source, and what is wrong."""

    kind: str
    file: str
    group: str
    index: int
    row: int
    message: str

    def __str__(self) -> str:
        place = [self.file, f"group {self.group!r}" if self.group else "", f"index {self.index}"]
        return f"{', '.join(part for part in place if part)}: {self.message}"


@dataclass
class CheckReport:
    """What a check found.

    Attributes
    ----------
    structures
        That were looked at.
    bad
        Those with a fault of any kind; a record may have several.
    counts
        Faults by kind, for all kinds of ``KINDS``.
    records
        The first ten of each kind.
    rows
        The rows of the source that are bad.
    """

    structures: int = 0
    bad: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    records: list[BadRecord] = field(default_factory=list)
    rows: Rows = field(default_factory=lambda: Rows(0))

    def __str__(self) -> str:
        if not self.bad:
            return f"{self.structures} records, none is bad"
        lines = [f"{self.bad} of {self.structures} records are bad"]
        for kind, count in self.counts.items():
            if count:
                lines.append(f"  {kind}: {count} ({KINDS[kind]})")
                shown = [record for record in self.records if record.kind == kind]
                lines += [f"    {record}" for record in shown]
                lines += [f"    and {count - len(shown)} more"] if count > len(shown) else []
        return "\n".join(lines)


class BadRecords(DataError):
    """Bad records that were to be refused; ``report`` says which."""

    def __init__(self, report: CheckReport) -> None:
        super().__init__(f"{report}\non_bad='skip' leaves them out")
        self.report = report
