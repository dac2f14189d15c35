"""Whether a run of a network is piecewise linear in its input, and which pieces it chose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..convert.record import REFUSALS
from .bends import CHOICES, GATES, PAIRS, POOLS, RANKS, Faces, Read, chosen, faces
from .fixed import fixed
from .inputs import is_numeric
from .paths import HOOKS, running

# linear in all their tensor arguments together
LINEAR = """
add sub rsub neg mean sum cumsum cat stack clone _to_copy copy constant_pad_nd roll flip repeat
index index_select index_put _index_put_impl index_add index_copy index_fill gather scatter_add
masked_fill masked_scatter where fill zero tril triu slice_scatter select_scatter unsafe_split
unsafe_split_with_sizes reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d im2col col2im avg_pool2d avg_pool3d _adaptive_avg_pool2d
_adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d
upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d pixel_shuffle pixel_unshuffle
channel_shuffle _unsafe_view
"""
# also in place: the same storage, seen otherwise
VIEWS = "as_strided squeeze unsqueeze transpose t"
# of the shape only
CONSTANT = """
new_empty new_empty_strided new_zeros new_ones new_full zeros_like ones_like full_like empty_like
rand_like randn_like randint_like
"""
# linear in each argument: at most one may depend on the input; of a quotient only the first
BILINEAR = "mul mm bmm addmm baddbmm addmv mv dot convolution"
NORMS = "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training"
# numbers of the input that leave torch, where nothing follows them
READS = (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__)
CUTS = torch.Tensor.detach, torch.Tensor.detach_, torch.Tensor.data.__get__
LINEAR, CONSTANT, BILINEAR, NORMS = (
    frozenset(names.split()) for names in (LINEAR + VIEWS, CONSTANT, BILINEAR, NORMS)
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
        # for each of them what tells its inequalities
        self.walls: list[Callable[[], Faces | None] | None] = []
        self.model, self.paths, self.refused = model, [""], ""
        # alive, so that no address comes twice
        self.kept: dict[int, torch.Tensor] = {}
        self.hidden: dict[int, torch.Tensor] = {}
        self.attached: dict[int, torch.Tensor] = {}  # what was detached, as autograd knows it
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
        constant = name in CONSTANT or not any(depends)
        seeded = torch.Tag.nondeterministic_seeded in function.tags and "attention" not in name
        if constant and seeded:
            self.note(f"{name} draws random numbers, so the network is no function of its input")
        choices, arguments = [], None
        if name in CHOICES and not constant:  # the function may write to what it reads
            choices = _chosen(name, args, kwargs)
            with torch._C.DisableTorchFunction():  # else what is read here counts as the network's
                arguments = self._arguments(function, args, kwargs)
        result = function(*args, **kwargs)
        if constant:
            return result
        made = [out for out in _listed(result) if torch.is_tensor(out)]
        numbers = [out for out in made if is_numeric(out)]
        # a comparison, or the place of a maximum, is a choice
        choices += [out.clone() for out in made if not is_numeric(out)]  # it may be written to
        self.gates += [Gate(self.paths[-1], name, choice) for choice in choices]
        self.walls += [arguments and partial(faces, name, arguments, choice) for choice in choices]
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
            self._check(function, name, args, kwargs, depends, len(made) > 1)
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

    def _arguments(self, function: Any, args: tuple, kwargs: dict[str, Any]) -> dict | None:
        """By name, with what autograd knows of those that depend on the input; None if nothing."""
        expected = function._schema.arguments
        named = {argument.name: argument.default_value for argument in expected}
        named |= dict(zip(named, args, strict=False)) | kwargs
        for key, value in named.items():
            if torch.is_tensor(value):
                kept = self._among(self.kept, value)
                named[key] = self._read(value) if kept else value.detach().clone()
        unknown = named["self"] is None or named.get("other", 0) is None
        return None if unknown else named

    def _read(self, x: torch.Tensor) -> Read | None:
        value, whole = x.detach().clone(), self.attached.get(x.untyped_storage().data_ptr())
        if whole is not None:
            place = x.shape, x.stride(), x.storage_offset()
            return None if whole._version else Read(value, lambda: _edge(whole, *place))
        if x.grad_fn is None:
            return None
        edge = GradientEdge(x.grad_fn, x.output_nr, x)  # with its owner
        return Read(value, lambda: edge)

    def _check(
        self,
        function: Any,
        name: str,
        args: tuple,
        kwargs: dict[str, Any],
        depends: list[bool],
        several: bool,
    ) -> None:
        good = name in LINEAR or function.is_view
        if name in BILINEAR:
            # the added matrix of addmm, or the bias of a convolution, enters linearly
            pair = depends[1:3] if name in ("addmm", "baddbmm", "addmv") else depends[:2]
            good = sum(pair) <= 1
        elif name == "div":
            good = not depends[1] and not kwargs.get("rounding_mode")
        elif name in GATES or name in POOLS:
            good = not any(depends[1:])
        elif name in RANKS:
            good = several  # a maximum over everything has no place
        elif name in PAIRS:
            good = True
        elif name in NORMS:
            good = not any(depends[1:]) and (name.endswith("no_training") or not args[5])
        if not good or not torch.is_grad_enabled():
            self.refuse(name)

    def refuse(self, name: str) -> None:
        """Note an operation of the part that is running, the first one."""
        blind = "" if torch.is_grad_enabled() else ", or is hidden from autograd"
        self.note(
            f"{name} of the input is not piecewise linear{blind}, so no matrix A(x) is the network "
            "around x"
        )

    def note(self, reason: str) -> None:
        """Note why there is no local map, with the part that is running; the first time."""
        self.refused = self.refused or (
            f"{self.paths[-1] or type(self.model).__name__}: {reason}; its Jacobian is "
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
        if not (args and self.watch._among(self.watch.kept, args[0])):
            return result
        if function in READS:
            self.watch.refuse(function.__name__)
        if function in HOOKS:
            self.watch.refuse(HOOKS[function])
        if function is torch.Tensor.detach_:
            self.watch.keep(result, True)
        elif function in CUTS:
            with torch.enable_grad():
                whole = args[0].clone()
            result = whole.detach()
            self.watch.keep(result, True)
            if whole.requires_grad:
                self.watch.attached[result.untyped_storage().data_ptr()] = whole
        return result


def _listed(result: Any) -> tuple | list:
    return result if isinstance(result, (tuple, list)) else (result,)


def _chosen(name: str, args: tuple, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """What a gate chooses, where its result does not tell."""
    x, *rest = args
    if name in GATES:
        return [chosen(x, GATES[name](*rest, **kwargs))]
    return [(x > rest[0]).byte() + (x >= rest[0]).byte()] if name in PAIRS else []


def _edge(whole: torch.Tensor, *place: Any) -> GradientEdge:
    """Where autograd knows a view from."""
    with torch.enable_grad():
        return get_gradient_edge(whole.as_strided(*place))
