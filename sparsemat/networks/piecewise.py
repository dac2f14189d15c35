"""Whether a run of a network is piecewise linear in its input, and which pieces it chose."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..convert.record import REFUSALS
from .fixed import fixed
from .inputs import is_numeric
from .paths import running

# linear in all their tensor arguments together
LINEAR = """
add sub rsub neg mean sum cat stack clone _to_copy copy constant_pad_nd index index_select gather
roll flip repeat reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d im2col col2im
avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d upsample_nearest1d
upsample_nearest2d upsample_bilinear2d upsample_linear1d pixel_shuffle pixel_unshuffle _unsafe_view
channel_shuffle fill zero where masked_fill index_add scatter_add
"""
# of the shape only
CONSTANT = "new_zeros new_ones new_full zeros_like ones_like full_like"
# linear in each argument: at most one may depend on the input; of a quotient only the first
BILINEAR = "mul mm bmm addmm baddbmm addmv mv dot convolution"
NORMS = "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"
GATES = {
    "relu": lambda x, *_: x > 0,
    "abs": lambda x, *_: x.sign().to(torch.int8),  # at zero torch takes neither side's slope
    "leaky_relu": lambda x, *_: x > 0,
    "_prelu_kernel": lambda x, *_: x > 0,
    "threshold": lambda x, bound, *_: x > bound,
    "hardtanh": lambda x, low=-1, high=1, *_: (x > low).byte() + (x >= high).byte(),
    "clamp": lambda x, low=None, high=None, *_: _between(x, low, high),
    "clamp_min": lambda x, low, *_: _between(x, low, None),
}
# numbers of the input that leave torch, where nothing follows them
READS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__)
SELECTIONS = "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d"
LINEAR, CONSTANT, BILINEAR, NORMS, SELECTIONS = (
    frozenset(names.split()) for names in (LINEAR, CONSTANT, BILINEAR, NORMS, SELECTIONS)
)


class Gate(NamedTuple):
    """What one gate or selection chose.

    Attributes:
        path: The part that was running; empty for the network's own code.
        kind: The operation.
        choice: For every entry which piece it is on, or the index that was selected.
    """

    path: str
    kind: str
    choice: torch.Tensor


class Watch(TorchDispatchMode):
    """Records the gates of what runs under it, and refuses what is not piecewise linear.

    Args:
        x: The input.
        model: The network, for the paths.

    Raises:
        TypeError: An operation that depends on the input is not piecewise linear; with its name,
            the part, and what to use.
    """

    def __init__(self, x: torch.Tensor, model: nn.Module) -> None:
        super().__init__()
        self.gates: list[Gate] = []
        self.model, self.paths, self.refused = model, [""], ""
        # alive, so that no address comes twice
        self.kept: dict[int, torch.Tensor] = {}
        self.hidden: dict[int, torch.Tensor] = {}
        self.keep(x, False)

    @contextmanager
    def watching(self):
        """The mode, with the paths of the parts."""
        error = None
        try:
            with running(self.model) as self.paths, _Attached(self), self:
                yield
        except REFUSALS as caught:
            error = caught
            if not self.refused:
                raise
        if self.refused:  # an error inside an operator would be taken for no operator
            raise TypeError(self.refused) from error

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None):
        kwargs = kwargs or {}
        given = (*args, *kwargs.values())
        depends = [self._among(self.kept, arg) for arg in given]
        name = function._schema.name.removeprefix("aten::")
        name = name.removesuffix("_") if not name.endswith("__") else name
        gate = GATES[name](*args, **kwargs) if name in GATES and any(depends) else None
        result = function(*args, **kwargs)
        if name in CONSTANT or not any(depends):
            return result
        made = [out for out in _listed(result) if torch.is_tensor(out)]
        numbers = [out for out in made if is_numeric(out)]
        # a comparison, or the place of a maximum, is a choice
        choices = [out for out in made if not is_numeric(out)]
        choices += [] if gate is None else [gate]
        self.gates += [Gate(self.paths[-1], name, choice) for choice in choices]
        if name == "_local_scalar_dense":
            self.refuse("item")
        if not numbers:
            return result
        hidden = any(self._among(self.hidden, arg) for arg in given)
        if hidden and any(
            d and not self._among(self.hidden, a) for d, a in zip(depends, given, strict=True)
        ):
            self.refuse("detach")
        if not hidden:
            self._check(function, name, args, kwargs, depends)
        for out in numbers:
            self.keep(out, hidden)
        return result

    def check(self, output: Any) -> None:
        """Refuse an output that the network detached."""
        if self._among(self.hidden, output):
            self.refuse("detach")

    def keep(self, tensor: torch.Tensor, hidden: bool) -> None:
        """Remember that a tensor depends on the input, and whether autograd does not see it."""
        address = tensor.untyped_storage().data_ptr()
        self.kept[address] = tensor
        if hidden:
            self.hidden[address] = tensor

    def _among(self, tensors: dict[int, torch.Tensor], arg: Any) -> bool:
        if isinstance(arg, (tuple, list)):
            return any(self._among(tensors, part) for part in arg)
        return torch.is_tensor(arg) and arg.untyped_storage().data_ptr() in tensors

    def _check(
        self, function: Any, name: str, args: tuple, kwargs: dict[str, Any], depends: list[bool]
    ) -> None:
        good = name in LINEAR or function.is_view
        if name in BILINEAR:
            # the added matrix of addmm, or the bias of a convolution, enters linearly
            pair = depends[1:3] if name in ("addmm", "baddbmm", "addmv") else depends[:2]
            good = sum(pair) <= 1
        elif name == "div":
            good = not depends[1] and not kwargs.get("rounding_mode")
        elif name in GATES or name in SELECTIONS:
            good = not any(depends[1:])
        elif name in NORMS:
            good = not any(depends[1:]) and (name.endswith("no_training") or not args[5])
        if not good or not torch.is_grad_enabled():
            self.refuse(name)

    def refuse(self, name: str) -> None:
        """Note an operation of the part that is running, the first one."""
        blind = "" if torch.is_grad_enabled() else ", or is hidden from autograd"
        self.refused = self.refused or (
            f"{self.paths[-1] or type(self.model).__name__}: {name} of the input is not "
            f"piecewise linear{blind}, so no matrix A(x) is the network around x; its Jacobian is "
            "sparsemat.jacobian, its matrix with frozen gates sparsemat.secant_map"
        )


class _Attached(TorchFunctionMode):
    """Knows what the network detaches, which it may to choose; autograd itself detaches, too.

    What is linear in the input gets a cheap adjoint here, above autograd.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if not any(self.watch._among(self.watch.kept, x) for x in (*args[1:], *kwargs.values())):
            result = fixed(function, args, kwargs, result)
        if function in (*READS, torch.Tensor.register_hook) and self.watch._among(
            self.watch.kept, args[0]
        ):
            self.watch.refuse(function.__name__)
        cuts = torch.Tensor.detach, torch.Tensor.detach_, torch.Tensor.data.__get__
        if function in cuts and self.watch._among(self.watch.kept, args[0]):
            result = result.clone()
            self.watch.keep(result, True)
        return result


def _listed(result: Any) -> tuple | list:
    return result if isinstance(result, (tuple, list)) else (result,)


def _between(x: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    piece = torch.zeros_like(x, dtype=torch.uint8)
    # a bound is a piece of its own: torch's slope there depends on whether the bound is a tensor
    for bound in (low, high):
        if bound is not None:
            piece += (x > bound).byte() + (x >= bound).byte()
    return piece
