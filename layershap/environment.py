"""Versions and machine: what results depend on beside the code."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import nn

_PACKAGES = ("layershap", "transformers", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Environment:
    """Versions and machine that results depend on.

    Attributes
    ----------
    versions : dict of str to str
        Versions of Python and of the packages that results depend on.
    platform : str
        Operating system and processor.
    device : str
        Name of the accelerator, or "cpu" without one.
    threads : int
        Number of torch's threads on the CPU.
    """

    versions: dict[str, str]
    platform: str
    device: str
    threads: int


def current_environment(model: nn.Module | None = None) -> Environment:
    """Versions and machine of this process; the device is the model's, the CPU without one."""
    parameter = next(model.parameters(), None) if model is not None else None
    device = "cpu"
    if parameter is not None and parameter.device.type == "cuda":
        device = torch.cuda.get_device_name(parameter.device)
    elif parameter is not None:
        device = parameter.device.type
    # torch's own string names the build (+cpu, +cu130), which a package's metadata need not.
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: _version(name) for name in _PACKAGES}
    return Environment(
        versions=versions,
        platform=f"{platform.system()} {platform.machine()}",
        device=device,
        threads=torch.get_num_threads(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
