"""The native kernels behind the AEV, the neighbor search and the engine; see csrc/ for their source."""

from anipot.kernels.library import (
    Backend,
    backends,
    cpu_backend,
    cuda_backend,
    instruction_set,
    library,
    reference_path,
)

__all__ = [
    "Backend",
    "backends",
    "cpu_backend",
    "cuda_backend",
    "instruction_set",
    "library",
    "reference_path",
]
