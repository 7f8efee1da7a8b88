"""One object for chemists: a system, a model, and what is asked of them."""

from anipot.study.point import Point, point_of
from anipot.study.study import Study

__all__ = ["Point", "Study", "point_of"]
