"""Relaxation of many systems at once."""

from anipot.optimization.model_hessian import model_hessian
from anipot.optimization.pictures import plot_convergence
from anipot.optimization.result import Optimized
from anipot.optimization.run import optimize

__all__ = ["Optimized", "model_hessian", "optimize", "plot_convergence"]
