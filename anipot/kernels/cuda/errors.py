"""What goes wrong with kernels for CUDA devices."""


class KernelError(RuntimeError):
    """Kernels cannot be compiled, loaded or launched."""


class CompilationError(KernelError):
    """A source that the compiler refuses: a mistake in this library, or in its build."""


class CaptureError(KernelError):
    """Something that has to be done before a CUDA graph is captured, not within."""
