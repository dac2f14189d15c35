"""Where a run happens: the device, its precision, its processes."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = "32-true", "bf16-mixed"


def make_fabric(device: str, precision: str, devices: int = 1, nodes: int = 1) -> Fabric:
    """Fabric, with its processes started.

    Args:
        device: "cpu", "cuda" or "auto" (a GPU if there is one).
        precision: One of ``PRECISIONS``, as Fabric names them.
        devices: Processes a machine, each with a device of its own.
        nodes: Machines.

    Raises:
        ValueError: A GPU is asked for and there is none, there are fewer than asked for, or the
            device or the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"the precision must be one of {PRECISIONS}, got {precision!r}")
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"the device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the device cuda needs a GPU that torch can see, and it sees none")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if device == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"devices must be at most {torch.cuda.device_count()}, got {devices}")
    from lightning_fabric import Fabric  # imports torch's compiler, which takes seconds

    # else convolutions, and nothing that they are compared with, would round to 10 bits
    torch.backends.cudnn.allow_tf32 = False
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        precision=precision,
        strategy="ddp" if devices * nodes > 1 else "auto",
    )
    fabric.launch()
    return fabric


@contextmanager
def flush_subnormals() -> Iterator[None]:
    """Take numbers below 1e-38 as zero meanwhile.

    A recipe with a high rate leaves most weights there, where some processors take seven times as
    long for a step.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def peak_mebibytes(device: torch.device) -> float:
    """Most memory in use so far: the GPU's where there is one, else the process's."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def synchronised(model: nn.Module, fabric: Fabric) -> nn.Module:
    """The model with its batch normalisation over all processes.

    Raises:
        ValueError: It has batch normalisation, and the processes are on CPUs.
    """
    if fabric.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if any(
        isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        for module in model.modules()
    ):
        raise ValueError(
            "a network with batch normalisation must have one process on a CPU, since torch "
            f"normalises over processes on GPUs only, got {fabric.world_size}"
        )
    return model
