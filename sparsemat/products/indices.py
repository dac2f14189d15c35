"""Index arrays that follow the data to its device, and the compressed rows they make."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import cache

import numpy as np
import torch

# private, but there is no public way to step out of a transform
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack as no_transform


def constant(array: np.ndarray, device: torch.device | str) -> torch.Tensor:
    """An index array as a tensor that may be kept: a real one, whatever mode surrounds the call."""
    # in inference no later backward pass could save it, in a transform it would be wrapped
    outside = nullcontext() if torch.compiler.is_compiling() else no_transform()
    with outside, torch.inference_mode(False):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def narrowed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays with 32 bits an index where all fit: indices are half of what a product reads."""
    largest = max(int(array.max(initial=0)) for array in arrays.values())
    dtype = np.int32 if largest < 2**31 else np.int64
    return {name: array.astype(dtype) for name, array in arrays.items()}


def csr_tensor(
    crow: torch.Tensor, col: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """A ``torch.sparse_csr`` tensor of arrays that are known to be right."""
    _hear_the_announcement()
    return torch.sparse_csr_tensor(
        crow, col, values, shape, device=values.device, check_invariants=False
    )


@cache
def _hear_the_announcement() -> None:
    """Torch announces once, with the first such tensor, that the layout is in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        torch.zeros(1, 1, device="cpu").to_sparse_csr()
