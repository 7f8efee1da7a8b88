"""What ``anipot doctor`` says about CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

#: Behind the name of a device whose kernels are replayed as a CUDA graph.
GRAPH = " graph"


def section() -> dict[str, str]:
    """Return facts by names: torch, driver, devices, compiler, compiled programs, and what computes."""
    import torch

    from anipot.kernels import cuda_backend
    from anipot.kernels.cuda.support import no_devices

    facts = {"torch": _torch(), "driver": _driver()}
    if torch.cuda.is_available():
        facts |= {f"cuda:{index}": _device(index) for index in range(torch.cuda.device_count())}
    facts |= {"NVRTC": _compiler(), "programs": _programs()}
    found = cuda_backend()
    if found is None:
        facts["computes"] = f"nothing on a GPU: {no_devices()}"
    else:
        facts["computes"] = found.reason if found.active else f"torch operations: {found.reason}"
    return facts


def _torch() -> str:
    import torch

    if torch.version.hip is not None:
        return f"built for ROCm {torch.version.hip}"
    return "built without CUDA" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"


def _driver() -> str:
    from anipot.kernels.cuda.driver import driver
    from anipot.kernels.cuda.errors import KernelError

    try:
        return "up to CUDA {}.{}".format(*driver().version())
    except KernelError as error:
        return f"none: {error}"


def _device(index: int) -> str:
    import torch

    from anipot.kernels.cuda.support import reason

    properties = torch.cuda.get_device_properties(index)
    why = reason(index)
    found = f"{properties.name}, sm_{properties.major}{properties.minor}, {properties.total_memory / 2**30:.1f} GiB"
    return f"{found}: {f'torch operations, because {why}' if why else 'kernels'}"


def _compiler() -> str:
    from anipot.kernels.cuda.errors import KernelError
    from anipot.kernels.cuda.nvrtc import compiler

    try:
        found = compiler()
    except KernelError as error:
        return f"none: {error}"
    return f"{found.name}, {found.path}, for sm_{', '.join(map(str, found.architectures))}"


def _programs() -> str:
    from anipot.kernels.cuda import cache

    number, size = cache.contents()
    return f"{number} compiled, {size / 2**20:.1f} MiB, in {cache.folder()}"


def devices() -> list[Any]:
    """Return the devices whose kernels work."""
    import torch

    from anipot.kernels.cuda.support import no_devices, reason

    found = [] if no_devices() else [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [device for device in found if not reason(device)]


def uncovered(model: Any) -> dict[str, str]:
    """Return why the kernels do not compute a model, for the devices where they would but for the model itself."""
    found = {str(device): _engine(model, device).covers() for device in devices()}
    return {name: why for name, why in found.items() if why}


def _engine(model: Any, device: Any) -> Any:
    from anipot.engine import Engine

    return Engine(deepcopy(model).to(device))


def results(model: Any, device: Any, species: Any, coordinates: Any) -> Iterator[tuple[str, Any]]:
    """Yield how the kernels compute a structure, and what: launched one by one, and as a CUDA graph.

    Nothing where they do not cover the model; ``uncovered`` says why.
    """
    engine = _engine(model, device)
    if engine.covers():
        return
    ask = {"forces": True, "stress": False, "atomic_energies": False, "members": False, "transfer": True}
    found = [engine.evaluate(species, coordinates, None, None, **ask) for _ in range(3)]
    yield str(device), found[0]
    yield f"{device}{GRAPH}", found[2]
