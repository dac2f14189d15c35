"""The type in which a product is taken where ``torch.autocast`` is on."""

from __future__ import annotations

import torch


def autocast(*tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The tensors in the type of the surrounding ``torch.autocast``, as a product of torch casts.

    Args:
        tensors: Floating-point tensors, or None; the last one says on which device.

    Returns:
        The same, cast where autocast is on; float64 is left as it is.
    """
    device = tensors[-1].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)
