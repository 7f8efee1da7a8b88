"""Errors that the shell shows in one line, each with its exit code."""

from __future__ import annotations


class UsageError(Exception):
    """Bad arguments or bad input: exit code 2."""


class RunError(Exception):
    """Something went wrong while computing, such as no convergence: exit code 1."""
