"""Index arrays that follow the data to its device, and the compressed rows they make."""

from __future__ import annotations

import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch


class DeviceIndices:
    """Named index arrays, copied to a device the first time they are needed there.

    They are of 32 bits where all their entries fit, since indices are half of what a product reads.

    Args:
        arrays: int64 arrays of non-negative integers, by name.
    """

    def __init__(self, **arrays: np.ndarray) -> None:
        largest = max(int(array.max(initial=0)) for array in arrays.values())
        dtype = np.int32 if largest < 2**31 else np.int64
        self._copies = {
            torch.device("cpu"): SimpleNamespace(
                **{name: torch.from_numpy(array.astype(dtype)) for name, array in arrays.items()}
            )
        }

    def on(self, device: torch.device) -> SimpleNamespace:
        """The arrays as tensors on ``device``, by attribute."""
        if device not in self._copies:
            arrays = vars(self._copies[torch.device("cpu")])
            self._copies[device] = SimpleNamespace(
                **{name: tensor.to(device) for name, tensor in arrays.items()}
            )
        return self._copies[device]


def csr_tensor(
    crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """A ``torch.sparse_csr`` tensor of arrays that are known to be right."""
    _hear_the_announcement()
    return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=False)


@cache
def _hear_the_announcement() -> None:
    """Torch announces once, with the first such tensor, that the layout is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        torch.zeros(1, 1).to_sparse_csr()
