"""Energies of single atoms that were computed with the methods of the ANI data sets, Hartree."""

from __future__ import annotations

from collections.abc import Mapping

#: Neutral atoms in their ground states, unrestricted, by level of theory. Those of wB97X/6-31G(d) are from Gaussian 09,
#: others from ORCA; what stands for CCSD(T)*/CBS is a DLPNO calculation close to it. Published with TorchANI 2 (MIT
#: licence) as ``torchani.constants.GSAES``.
TORCHANI: Mapping[str, Mapping[str, float]] = {
    "wB97X/6-31G(d)": {
        "H": -0.4993212,
        "C": -37.8338334,
        "N": -54.5732825,
        "O": -75.0424519,
        "F": -99.6949007,
        "S": -398.0814169,
        "Cl": -460.1167006,
    },
    "wB97X/def2-TZVPP": {
        "H": -0.5013925,
        "C": -37.8459781,
        "N": -54.5915914,
        "O": -75.0768759,
        "F": -99.7471707,
        "S": -398.1079973,
        "Cl": -460.1467777,
    },
    "wB97M-D3BJ/def2-TZVPP": {
        "H": -0.498639663159,
        "C": -37.870597534068,
        "N": -54.621568655507,
        "O": -75.111870707635,
        "F": -99.784869113871,
        "S": -398.158126819835,
        "Cl": -460.197921425433,
    },
    "wB97M-V/def2-TZVPP": {
        "H": -0.494111111003,
        "C": -37.844395699666,
        "N": -54.590952163069,
        "O": -75.076760965132,
        "F": -99.745234404775,
        "S": -398.089446664032,
        "Cl": -460.124987825603,
    },
    "B97-3c/def2-mTZVP": {
        "H": -0.506930113968,
        "C": -37.81441001258,
        "N": -54.556538547322,
        "O": -75.029181326588,
        "F": -99.688618987039,
        "S": -398.043159341582,
        "Cl": -460.082223445159,
    },
    "CCSD(T)*/CBS": {
        "H": -0.5,
        "C": -37.780724507998,
        "N": -54.515992576387,
        "O": -74.976148184192,
    },
}
TORCHANI_SOURCE = "single atoms, torchani.constants.GSAES of TorchANI 2"

#: Published with the ANI-1 data set.
ANI1: Mapping[str, float] = {"H": -0.500607632585, "C": -37.8302333826, "N": -54.5680045287, "O": -75.0362229210}
ANI1_SOURCE = "single atoms, README of github.com/isayev/ANI1_dataset"
