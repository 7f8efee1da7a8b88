"""The native kernels behind the AEV, the neighbor search and the engine; see csrc/ for their source."""

from anipot.kernels.library import Backend, backends, instruction_set, library, reference_path

__all__ = ["Backend", "backends", "instruction_set", "library", "reference_path"]
