"""Facts of the machine and the software a run was made with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from truepair.reports.data import FactGroup

PACKAGES = ("truepair", "torch", "torchvision", "transformers", "datasets", "accelerate", "numpy")


def machine_facts() -> FactGroup:
    """Processor, accelerator, operating system and the versions of the packages that make a run what it is."""
    facts = {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Threads": str(torch.get_num_threads()),
        "Accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": platform.python_version(),
    }
    return FactGroup(title="Machine and versions", facts=facts | _versions())


def _processor() -> str:
    """The processor's name; Linux keeps it in a file, where Python does not look."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"


def _versions() -> dict[str, str]:
    """Versions of the installed packages."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
