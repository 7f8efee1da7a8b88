"""What the entry point ``ase.plugins`` points at, by which ASE (3.29 and later) finds the calculator by name."""

from typing import Any

try:  # the plugin classes are in a module that ASE calls experimental
    from ase._4.plugins.plugin import CalculatorPlugin
except ImportError:
    __ase_plugins__: set[Any] = set()
else:
    __ase_plugins__ = {
        CalculatorPlugin(
            name="anipot",
            citation="doi:10.1039/C6SC05720A",
            implementation="anipot.interfaces.ase.Calculator",
        )
    }
