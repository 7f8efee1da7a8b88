"""Energy terms: physics with few or no parameters that a ``Potential`` adds to what its network says."""

from anipot.terms.coulomb import Coulomb, ErfDamping, ShortRangeExclusion
from anipot.terms.d3 import D3
from anipot.terms.zbl import ZBL

__all__ = ["D3", "ZBL", "Coulomb", "ErfDamping", "ShortRangeExclusion"]
