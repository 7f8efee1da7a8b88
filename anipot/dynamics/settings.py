"""What a run of dynamics is set to."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

#: Which choices each ensemble reads besides temperature and time step; a resumed run must repeat these.
READ = {
    ("nve", ""): (),
    ("nvt", "langevin"): ("thermostat", "friction"),
    ("nvt", "nose-hoover"): ("thermostat", "tdamp"),
    ("npt", "isotropic"): ("barostat", "pressure", "tdamp", "pdamp"),
    ("npt", "full"): ("barostat", "pressure", "tdamp", "pdamp"),
}


@dataclass(frozen=True)
class Settings:
    """Ensemble, thermostat, barostat and time step.

    Parameters
    ----------
    ensemble
        ``"nve"``, ``"nvt"`` or ``"npt"``.
    temperature
        K; of the thermostat, and of the momenta at the start.
    timestep
        fs.
    thermostat
        Of ``nvt``: ``"langevin"``, or ``"nose-hoover"`` for a chain of three thermostats.
    friction
        1/fs, of the Langevin thermostat.
    barostat
        Of ``npt``: ``"isotropic"`` scales the cell, ``"full"`` changes its lengths and angles too. Both are those of
        Martyna, Tobias and Klein (doi:10.1063/1.467468) with Nosé–Hoover chains.
    pressure
        bar.
    tdamp, pdamp
        fs, times in which the Nosé–Hoover chain and the barostat answer; 100 and 1000 steps by default.

    Raises
    ------
    ValueError
        For a name that is none of these, or a number out of its range.

    Examples
    --------
    >>> Settings("nvt", temperature=350).used()
    {'ensemble': 'nvt', 'temperature': 350.0, 'timestep': 0.5, 'thermostat': 'langevin', 'friction': 0.01}
    """

    ensemble: str = "nve"
    temperature: float = 300.0
    timestep: float = 0.5
    thermostat: str = "langevin"
    friction: float = 0.01
    barostat: str = "isotropic"
    pressure: float = 1.0
    tdamp: float | None = None
    pdamp: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in READ:
            known = ", ".join(" ".join(filter(None, kind)) for kind in READ)
            raise ValueError(f"no dynamics {' '.join(filter(None, self.kind))!r}; known are {known}")
        for name, steps in (("tdamp", 100), ("pdamp", 1000)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, steps * self.timestep)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                continue
            object.__setattr__(self, field.name, float(value))
            least = {"temperature": 0.0, "friction": 0.0, "pressure": float("-inf")}.get(field.name)
            if not (abs(value) < float("inf") and (value > 0 if least is None else value >= least)):
                bound = "a number above 0" if least is None else "a number" if least else "a number from 0 on"
                raise ValueError(f"{field.name} must be {bound}, got {value}")
        if self.temperature == 0 and "tdamp" in READ[self.kind]:
            raise ValueError("temperature must be above 0 for a Nosé–Hoover chain, whose mass it is a factor of")

    @property
    def kind(self) -> tuple[str, str]:
        """The ensemble and how it is held."""
        return self.ensemble, {"nvt": self.thermostat, "npt": self.barostat}.get(self.ensemble, "")

    def used(self) -> dict[str, Any]:
        """Return what this ensemble reads, by name."""
        return {name: getattr(self, name) for name in ("ensemble", "temperature", "timestep", *READ[self.kind])}
