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
        arrays: int64 arrays of integers of at least -1, by name.
    """

    def __init__(self, **arrays: np.ndarray) -> None:
        largest = max(int(array.max(initial=0)) for array in arrays.values())
        dtype = np.int32 if largest < 2**31 else np.int64
        with torch.inference_mode(False):  # else no later backward pass could save them
            self._copies = {
                torch.device("cpu"): SimpleNamespace(
                    **{k: torch.from_numpy(array.astype(dtype)) for k, array in arrays.items()}
                )
            }

    def on(self, device: torch.device) -> SimpleNamespace:
        """The arrays as tensors on ``device``, by attribute."""
        if device not in self._copies:
            arrays = vars(self._copies[torch.device("cpu")])
            with torch.inference_mode(False):
                self._copies[device] = SimpleNamespace(
                    **{name: tensor.to(device) for name, tensor in arrays.items()}
                )
        return self._copies[device]

    def __getstate__(self) -> dict:
        cpu = torch.device("cpu")
        return {"_copies": {cpu: self._copies[cpu]}}


def check_operands(product, theta: torch.Tensor, x: torch.Tensor) -> None:
    """Refuse parameters and vectors that are not those of a product.

    Raises:
        ValueError: With the rule and the values.
    """
    if theta.shape != (product.num_parameters,):
        raise ValueError(
            f"theta must have shape (num_parameters,)={(product.num_parameters,)}, "
            f"got {tuple(theta.shape)}"
        )
    if x.ndim != 2 or len(x) != product.shape[1]:
        raise ValueError(
            f"x must have shape (cols, n) with cols={product.shape[1]}, got {tuple(x.shape)}"
        )
    if theta.dtype != x.dtype:
        raise ValueError(f"theta and x must have one type, got {theta.dtype} and {x.dtype}")


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
