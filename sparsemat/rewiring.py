"""What an optimizer holds of a parameter whose entries move."""

from __future__ import annotations

import torch


def state_by_entry(
    optimizer: torch.optim.Optimizer | None, parameter: torch.nn.Parameter
) -> dict[str, torch.Tensor]:
    """The state along the first axis of a parameter, which moves where its entries do.

    Args:
        optimizer: The optimizer; None has no state.
        parameter: The parameter.

    Returns:
        Tensors with as many entries along the first axis as the parameter, by name of the state.

    Raises:
        TypeError: It is no optimizer.
        ValueError: It holds state that is not along the first axis of one parameter, as LBFGS does.
    """
    if optimizer is None:
        return {}
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    for state in optimizer.state.values():
        for name, held in state.items():
            if isinstance(held, (list, tuple)):
                raise ValueError(
                    "the optimizer must hold numbers and tensors for each parameter, got a "
                    f"{type(held).__name__} {name!r}"
                )
    moving = {
        name: held
        for name, held in optimizer.state.get(parameter, {}).items()
        if torch.is_tensor(held) and (held.shape == parameter.shape or held.shape not in ((), (1,)))
    }
    for name, held in moving.items():
        if len(held) != len(parameter):
            raise ValueError(
                f"the optimizer must hold its state along the first axis of the parameter, of "
                f"shape {tuple(parameter.shape)}, got {name} of shape {tuple(held.shape)}"
            )
    return moving
