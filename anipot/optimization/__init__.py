"""Relaxation of many systems at once; reaction paths and transition states."""

from anipot.optimization.model_hessian import model_hessian
from anipot.optimization.paths import ReactionPath, reaction_path
from anipot.optimization.pictures import plot_convergence
from anipot.optimization.result import Optimized
from anipot.optimization.run import optimize
from anipot.optimization.saddle import TransitionState, transition_state

__all__ = [
    "Optimized",
    "ReactionPath",
    "TransitionState",
    "model_hessian",
    "optimize",
    "plot_convergence",
    "reaction_path",
    "transition_state",
]
