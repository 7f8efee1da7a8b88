"""Read files of format version 1, which knew AEVs, ``ANIModel`` and ensembles of these: as files of today.

Weights were called ``member.element.layer.weight``, such as ``0.H.2.weight``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

#: Names of that time for ours; those of torch's activations were their own.
_KINDS = {"CELU": "CELU", "Gaussian": "Gaussian", "cosine": "CosineCutoff", "smooth": "SmoothCutoff"}


def _object(old: Mapping[str, Any]) -> dict[str, Any]:
    kind = old["kind"]
    return {**old, "kind": _KINDS.get(kind, f"nn.{kind}")}


def description(old: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of today for one of version 1."""
    elements = old["elements"]
    members = old["members"] * (old["num_members"] if len(old["members"]) == 1 else 1)
    heads = [{"kind": "ANIModel", "networks": [_network(one[e]) for e in elements]} for one in members]
    function = _object(old["representation"]["cutoff_function"])
    return {
        "kind": "Potential",
        "name": old["name"],
        "elements": elements,
        "representation": {**old["representation"], "num_species": len(elements), "cutoff_function": function},
        "head": {"kind": "Ensemble", "models": heads} if old["ensemble"] else heads[0],
        "shifter": {"kind": "EnergyShifter", **{k: old[k] for k in ("self_energies", "fit_intercept")}},
        "properties": [],
        "terms": [],
        "details": old["details"],
        "links": {},
    }


def _network(old: Mapping[str, Any]) -> dict[str, Any]:
    return {**old, "kind": "AtomicNetwork", "activation": _object(old["activation"])}


def renamed(old: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights called ``member.element.layer.kind`` under their names of today."""
    index = {element: i for i, element in enumerate(old["elements"])}
    named = {}
    for name, tensor in weights.items():
        member, element, rest = name.split(".", 2)
        inside = f"head.{member}" if old["ensemble"] else "head"
        named[f"{inside}.{index[element]}.linears.{rest}"] = tensor
    return named
