"""Stock PyTorch modules to matrices, and to layers that multiply by them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import chain
from math import prod

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from . import attention, convolution, linear, pooling, recurrence
from .convolution import conv_pattern
from .matrix import SparseMatrix
from .pattern import Pattern

# W, b and the shape of the output
Affine = tuple[SparseMatrix, torch.Tensor, tuple[int, ...]]

ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardsigmoid),
    *(nn.Hardswish, nn.Softplus, nn.Softsign, nn.Threshold),
)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
AVG_POOL = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
MATRIX_CONV = (convolution.Conv1d, convolution.Conv2d, convolution.Conv3d)
MATRIX_AVG_POOL = (pooling.AvgPool1d, pooling.AvgPool2d, pooling.AvgPool3d)

# what to do with a module that is no matrix
HINTS = {
    ELEMENTWISE: "it acts entry by entry, so apply it between the matrices of its neighbours",
    (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d): (
        "its matrix depends on the image: sparsemat.MaxPool2d(...).selection(x) is the matrix at x"
    ),
    (nn.MultiheadAttention,): (
        "its matrix depends on the tokens: from_module gives a layer whose matrix(x) is that at x"
    ),
    (attention.SelfAttention,): "its matrix depends on the tokens: matrix(x) is the matrix at x",
    (nn.RNNBase,): (
        "its activation acts inside the recurrence: from_module gives a layer for nn.RNN, whose "
        "operators(steps) are matrices"
    ),
    (nn.Softmax, nn.LogSoftmax, nn.Softmin): "apply it after the matrix of the layer before",
    (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm): (
        "it divides by a statistic of its input; batch normalisation in eval mode is a matrix"
    ),
}

_matrices: dict[type, Callable[..., Affine]] = {}
_layers: dict[type, Callable[..., nn.Module]] = {}


def to_matrix(module: nn.Module, input_shape: Sequence[int]) -> tuple[SparseMatrix, torch.Tensor]:
    """The sparse matrix and the constant of an affine module.

    ``W @ x.reshape(-1) + b == module(x[None])[0].reshape(-1)`` for every x of ``input_shape``.
    Gradients of W and b reach the module's parameters. Forward hooks are not seen.

    Args:
        module: ``Linear``, ``Conv``, ``ConvTranspose``, ``AvgPool``, ``AdaptiveAvgPool``,
            ``BatchNorm`` and ``Dropout`` in eval mode, ``Flatten``, ``Identity``, a ``Sequential``
            of these, or one of this library's linear layers.
        input_shape: Shape of one input, without the batch axis.

    Returns:
        W of shape ``(prod(output_shape), prod(input_shape))`` and b of shape
        ``(prod(output_shape),)``, in the type and on the device of the module's parameters.

    Raises:
        TypeError: The module is not affine or of no known kind; the message says what to use.
        ValueError: The module is in a mode in which it is not affine, does not take the shape, or
            has a weight that a hook computes.
    """
    _refuse_computed(module)
    matrix, bias, _ = _matrix(module, _shape(input_shape), _like(module))
    return matrix, bias


def from_module(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    tied: bool = True,
    causal: bool = False,
    window: int | None = None,
) -> nn.Module:
    """The matrix layer with the parameters of a stock module, under the same names.

    Args:
        module: ``Conv1d`` to ``Conv3d``, ``AvgPool1d`` to ``AvgPool3d``, ``MaxPool2d``, ``RNN``,
            ``MultiheadAttention`` (as self-attention: called with one argument), a ``Sequential``
            of these, or a module that is its own matrix layer (``Linear``, activations, ...), which
            is copied. A part that a ``Sequential`` holds twice is shared where its inputs have one
            shape, and becomes two layers where they have two.
        input_shape: Shape of one input, without the batch axis.
        tied: Whether the positions of a convolution share its kernel.
        causal: Whether token i of an attention sees only tokens ``j <= i``.
        window: Distance up to which tokens of an attention see one another; None for no limit.

    Returns:
        A module of its own, whose state dict loads into ``module`` and back (a convolution that is
        not tied has a longer weight).

    Raises:
        TypeError: There is no matrix layer for the module.
        ValueError: The module has an option that the matrix layer does not take or a weight that a
            hook or a parametrization computes, or an argument has no module to act on.
    """
    kinds = {"tied": (tied, True, CONV)}
    kinds |= {"causal": (causal, False, (nn.MultiheadAttention,))}
    kinds |= {"window": (window, None, (nn.MultiheadAttention,))}
    for name, (value, default, kind) in kinds.items():
        if value != default and not any(isinstance(part, kind) for part in module.modules()):
            names = " or ".join(k.__name__ for k in kind)
            raise ValueError(f"{name} needs a {names}, got {name}={value} for {module!r}")
    _refuse_computed(module)
    return _layer(module, _shape(input_shape), tied=tied, causal=causal, window=window)


def _like(module: nn.Module) -> torch.Tensor:
    floating = (t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point())
    return next(floating, torch.empty(0))


def _rule(table: dict, *kinds: type) -> Callable:
    def register(function: Callable) -> Callable:
        table.update(dict.fromkeys(kinds, function))
        return function

    return register


def _find(table: dict, module: nn.Module) -> Callable | None:
    """The rule of the module's class; a subclass that computes something else has none."""
    for kind in type(module).__mro__:
        if kind in table:
            return table[kind] if type(module).forward is kind.forward else None
    return None


def _torch_names(kinds: Iterable[type]) -> str:
    return ", ".join(sorted(k.__name__ for k in kinds if k.__module__.startswith("torch.")))


def _matrix(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    rule = _find(_matrices, module)
    if rule is None:
        hints = (hint for kinds, hint in HINTS.items() if isinstance(module, kinds))
        known = f"the kinds that to_matrix takes are {_torch_names(_matrices)}"
        raise TypeError(f"{type(module).__name__} is not a matrix; {next(hints, known)}")
    return rule(module, shape, like)


@_rule(_matrices, nn.Linear, linear.SparseLinear)
def _linear(
    module: nn.Linear | linear.SparseLinear, shape: tuple[int, ...], like: torch.Tensor
) -> Affine:
    if not shape or shape[-1] != module.in_features:
        raise ValueError(
            f"input_shape must end in in_features={module.in_features}, got input_shape={shape}"
        )
    rows, cols, many = module.out_features, module.in_features, prod(shape[:-1])
    if isinstance(module, nn.Linear):
        o, i = np.indices((rows, cols)).reshape(2, -1)
        one = Pattern((rows, cols), o, i, o * cols + i, rows * cols)
    else:
        one = module.pattern
    block = np.arange(many)[:, None]
    row, col = (block * rows + one.row).reshape(-1), (block * cols + one.col).reshape(-1)
    size = many * rows, many * cols
    pattern = Pattern(size, row, col, np.tile(one.index, many), one.num_parameters)
    bias = None if module.bias is None else module.bias.repeat(many)
    return _affine(pattern, module.weight, bias, (*shape[:-1], rows))


@_rule(_matrices, *CONV)
def _conv(module: nn.Conv2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = _image_size(module, shape, len(module.kernel_size), module.in_channels)
    pattern = conv_pattern(
        module.in_channels,
        module.out_channels,
        size,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
    )
    outputs = convolution.output_size(
        size,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.padding_mode,
    )
    bias = None if module.bias is None else module.bias.repeat_interleave(prod(outputs))
    return _affine(pattern, module.weight, bias, (module.out_channels, *outputs))


@_rule(_matrices, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def _conv_transpose(
    module: nn.ConvTranspose2d, shape: tuple[int, ...], like: torch.Tensor
) -> Affine:
    size = _image_size(module, shape, len(module.kernel_size), module.in_channels)
    outputs = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            size,
            module.stride,
            module.padding,
            module.dilation,
            module.kernel_size,
            module.output_padding,
            strict=True,
        )
    )
    if min(outputs) < 1:
        raise ValueError(f"the output must not be empty, got size {outputs} for input {size}")
    geometry = {
        "stride": module.stride,
        "padding": module.padding,
        "dilation": module.dilation,
    }
    backward = conv_pattern(
        module.out_channels,
        module.in_channels,
        outputs,
        module.kernel_size,
        groups=module.groups,
        **geometry,
    )
    # output_padding of a stride or more makes room for rows of the convolution that are not there
    reached = convolution.output_size(outputs, module.kernel_size, *geometry.values())
    row = np.stack(np.unravel_index(backward.row, (module.in_channels, *reached)))
    kept = (row[1:] < np.array(size)[:, None]).all(0)
    pattern = Pattern(
        (backward.shape[1], prod(shape)),
        backward.col[kept],
        np.ravel_multi_index(tuple(row[:, kept]), shape),
        backward.index[kept],
        backward.num_parameters,
    )
    bias = None if module.bias is None else module.bias.repeat_interleave(prod(outputs))
    return _affine(pattern, module.weight, bias, (module.out_channels, *outputs))


@_rule(_matrices, *AVG_POOL, *MATRIX_AVG_POOL)
def _avg_pool(module: nn.AvgPool2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    size = _image_size(module, shape, _dims(module))
    if isinstance(module, MATRIX_AVG_POOL):
        _refuse_other_size(module, shape)
    windows = pooling.pool_windows(
        size, module.kernel_size, module.stride, module.padding, module.ceil_mode
    )
    pattern, divisors = pooling.avg_pool_divisors(
        shape[0],
        size,
        module.kernel_size,
        stride=module.stride,
        padding=module.padding,
        ceil_mode=module.ceil_mode,
        count_include_pad=module.count_include_pad,
        divisor_override=getattr(module, "divisor_override", None),
    )
    return _affine(pattern, 1 / divisors.to(like), None, (shape[0], *(len(w) for w, _ in windows)))


@_rule(_matrices, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_avg_pool(
    module: nn.AdaptiveAvgPool2d, shape: tuple[int, ...], like: torch.Tensor
) -> Affine:
    dims = _dims(module)
    size = _image_size(module, shape, dims)
    wanted = module.output_size
    wanted = (wanted,) * dims if wanted is None or isinstance(wanted, int) else tuple(wanted)
    outputs = tuple(n if m is None else m for n, m in zip(size, wanted, strict=True))
    if min(outputs) < 1:
        raise ValueError(f"output_size must be at least 1, got {outputs}")
    pattern, divisors = pooling.adaptive_avg_pool(shape[0], size, outputs)
    return _affine(pattern, 1 / divisors.to(like), None, (shape[0], *outputs))


@_rule(_matrices, *BATCH_NORM)
def _batch_norm(module: nn.BatchNorm2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if module.training or module.running_mean is None:
        raise ValueError(
            "batch normalisation is a matrix only with running statistics and after .eval(), got "
            f"training={module.training} and track_running_stats={module.track_running_stats}"
        )
    ranks = (1, 2) if _dims(module) == 1 else (_dims(module) + 1,)
    if len(shape) not in ranks or shape[0] != module.num_features:
        raise ValueError(
            f"input_shape must have {' or '.join(map(str, ranks))} axes, the first of "
            f"num_features={module.num_features}, got input_shape={shape}"
        )
    scale = (module.running_var + module.eps).rsqrt()
    if module.weight is not None:
        scale = scale * module.weight
    shift = -module.running_mean * scale
    if module.bias is not None:
        shift = shift + module.bias
    at, positions = np.arange(prod(shape)), prod(shape[1:])
    pattern = Pattern((len(at), len(at)), at, at, at // positions, shape[0])
    return _affine(pattern, scale, shift.repeat_interleave(positions), shape)


@_rule(_matrices, nn.Identity, nn.Flatten, *DROPOUT)
def _identity(module: nn.Module, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    output = shape
    if isinstance(module, DROPOUT) and module.training:
        raise ValueError(f"{type(module).__name__} is a matrix only after .eval()")
    if isinstance(module, nn.Flatten):
        if module.start_dim == 0 or module.start_dim == -len(shape) - 1:
            raise ValueError(
                "Flatten must keep the batch axis, so start_dim must be at least 1, "
                f"got start_dim={module.start_dim}"
            )
        output = tuple(module(torch.empty(1, *shape, device="meta")).shape[1:])
    at = np.arange(prod(shape))
    pattern = Pattern((len(at), len(at)), at, at, np.zeros_like(at), 1)
    return _affine(pattern, like.new_ones(1), None, output)


@_rule(_matrices, nn.Sequential)
def _sequential(module: nn.Sequential, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if len(module) == 0:
        return _identity(module, shape, like)
    first, *rest = module
    matrix, bias, shape = _matrix(first, shape, like)
    for part in rest:
        left, constant, shape = _matrix(part, shape, like)
        matrix, bias = left @ matrix, left @ bias + constant
    return matrix, bias, shape


@_rule(_matrices, *MATRIX_CONV)
def _matrix_conv(module: convolution.Conv2d, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if shape != (module.in_channels, *module.input_size):
        raise ValueError(
            f"input_shape must be {(module.in_channels, *module.input_size)}, got {shape}"
        )
    positions = prod(module.output_size)
    bias = None if module.bias is None else module.bias.repeat_interleave(positions)
    output = module.out_channels, *module.output_size
    return _affine(module.pattern, module.weight, bias, output)


@_rule(_matrices, recurrence.RNN)
def _matrix_rnn(module: recurrence.RNN, shape: tuple[int, ...], like: torch.Tensor) -> Affine:
    if len(shape) != 2 or not module.batch_first:
        raise ValueError(
            "a recurrence is a matrix on (T, d) with batch_first=True, "
            f"got input_shape={shape} and batch_first={module.batch_first}"
        )
    dense = module.explicit(shape[0])
    row, col = np.indices(tuple(dense.shape)).reshape(2, -1)
    kept = col // shape[1] <= row // module.hidden_size
    row, col = row[kept], col[kept]
    pattern = Pattern(tuple(dense.shape), row, col, np.arange(len(row)), len(row))
    theta = dense[torch.from_numpy(row).to(like.device), torch.from_numpy(col).to(like.device)]
    constant = module(like.new_zeros(1, *shape))[0].reshape(-1)
    return _affine(pattern, theta, constant, (shape[0], module.hidden_size))


def _layer(module: nn.Module, shape: tuple[int, ...], **options) -> nn.Module:
    rule = _find(_layers, module)
    if rule is None:
        known = _torch_names(set(_layers) - set(ELEMENTWISE))
        raise TypeError(
            f"there is no matrix layer for {type(module).__name__}; from_module takes {known} and "
            "activations, and to_matrix every affine module"
        )
    layer = rule(module, shape, options)
    if rule is _sequential_layer:  # its parts keep their own modes
        layer.training = module.training
        return layer
    return layer.train(module.training)


@_rule(_layers, *CONV)
def _conv_layer(module: nn.Conv2d, shape: tuple[int, ...], options: dict) -> nn.Module:
    dims = len(module.kernel_size)
    layer = MATRIX_CONV[dims - 1](
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        _image_size(module, shape, dims, module.in_channels),
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        module.bias is not None,
        module.padding_mode,
        device="meta",  # leaves the random state alone
    )
    layer = _with_parameters(layer, module)
    return layer if options["tied"] else layer.untie()


@_rule(_layers, *AVG_POOL)
def _avg_pool_layer(module: nn.AvgPool2d, shape: tuple[int, ...], options: dict) -> nn.Module:
    dims = _dims(module)
    return MATRIX_AVG_POOL[dims - 1](
        module.kernel_size,
        _image_size(module, shape, dims),
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        getattr(module, "divisor_override", None),
    )


@_rule(_layers, nn.MaxPool2d)
def _max_pool_layer(module: nn.MaxPool2d, shape: tuple[int, ...], options: dict) -> nn.Module:
    _refuse(module, return_indices=False)
    return pooling.MaxPool2d(
        module.kernel_size,
        _image_size(module, shape, 2),
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
    )


@_rule(_layers, nn.RNN)
def _rnn_layer(module: nn.RNN, shape: tuple[int, ...], options: dict) -> nn.Module:
    _refuse(module, bidirectional=False, batch_first=True, dropout=0)
    if len(shape) != 2 or shape[1] != module.input_size:
        raise ValueError(
            f"input_shape must be (T, d) with d={module.input_size}, got input_shape={shape}"
        )
    layer = recurrence.RNN(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        module.nonlinearity,
        module.bias,
        device="meta",
    )
    return _with_parameters(layer, module)


@_rule(_layers, nn.MultiheadAttention)
def _attention_layer(
    module: nn.MultiheadAttention, shape: tuple[int, ...], options: dict
) -> nn.Module:
    width = module.embed_dim
    _refuse(module, batch_first=True, dropout=0, add_zero_attn=False, bias_k=None)
    _refuse(module, kdim=width, vdim=width)
    if len(shape) != 2 or shape[1] != width:
        raise ValueError(f"input_shape must be (T, d) with d={width}, got input_shape={shape}")
    layer = attention.SelfAttention(
        width,
        module.num_heads,
        module.in_proj_bias is not None,
        causal=options["causal"],
        window=options["window"],
        device="meta",
    )
    return _with_parameters(layer, module)


@_rule(_layers, nn.Sequential)
def _sequential_layer(module: nn.Sequential, shape: tuple[int, ...], options: dict) -> nn.Module:
    layers, made = OrderedDict(), {}
    for name, part in module._modules.items():  # named_children leaves a part out the second time
        if (part, shape) not in made:
            made[part, shape] = _layer(part, shape, **options)
        layers[name] = made[part, shape]
        with torch.no_grad():
            output = deepcopy(layers[name]).eval()(_like(part).new_zeros(1, *shape))
        shape = tuple((output[0] if isinstance(output, tuple) else output).shape[1:])
    return nn.Sequential(layers)


@_rule(_layers, nn.Linear, nn.Identity, nn.Flatten, nn.Softmax, *DROPOUT, *BATCH_NORM, *ELEMENTWISE)
@_rule(_layers, recurrence.RNN, attention.SelfAttention, linear.SparseLinear)
def _copy(module: nn.Module, shape: tuple[int, ...], options: dict) -> nn.Module:
    return deepcopy(module)


@_rule(_layers, *MATRIX_CONV, *MATRIX_AVG_POOL, pooling.MaxPool2d)
def _own_layer(module: nn.Module, shape: tuple[int, ...], options: dict) -> nn.Module:
    _refuse_other_size(module, shape)
    if isinstance(module, MATRIX_CONV):
        if shape[0] != module.in_channels:
            raise ValueError(f"the layer's in_channels is {module.in_channels}, got {shape[0]}")
        if not options["tied"]:
            return module.untie()
    return deepcopy(module)


def _with_parameters(layer: nn.Module, module: nn.Module) -> nn.Module:
    """The layer with copies of the module's parameters, as trainable as they are."""
    if any(map(is_parametrized, module.modules())):
        raise ValueError(
            f"the matrix layer of {type(module).__name__} needs parameters of its own, got "
            "parametrized ones; see torch.nn.utils.parametrize.remove_parametrizations"
        )
    mine = dict(module.named_parameters())
    layer = layer.to_empty(device=next(iter(mine.values())).device)
    layer = layer.to(next(iter(mine.values())).dtype)
    layer.load_state_dict(mine)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(mine[name].requires_grad)
    return layer


def _refuse_computed(module: nn.Module) -> None:
    """Refuse a weight that a hook writes before a call: it may be stale now."""
    for part in module.modules():
        for name, value in vars(part).items():
            sources = {f"{name}_orig", f"{name}_g"}  # of pruning, and of torch's old weight_norm
            if torch.is_tensor(value) and sources & part._parameters.keys():
                raise ValueError(
                    f"{name} of {type(part).__name__} must be a parameter, got a tensor that a "
                    "hook computes; make it one first, for example with torch.nn.utils.prune.remove"
                )


def _refuse(module: nn.Module, **required: object) -> None:
    for name, value in required.items():
        if getattr(module, name) != value:
            raise ValueError(
                f"the matrix layer of {type(module).__name__} needs {name}={value}, "
                f"got {getattr(module, name)}"
            )


def _refuse_other_size(layer: nn.Module, shape: tuple[int, ...]) -> None:
    if shape[1:] != layer.input_size:
        raise ValueError(f"the layer's input_size is {layer.input_size}, got input_shape={shape}")


def _affine(
    pattern: Pattern, theta: torch.Tensor, bias: torch.Tensor | None, shape: tuple[int, ...]
) -> Affine:
    return pattern.fill(theta), theta.new_zeros(prod(shape)) if bias is None else bias, shape


def _shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in input_shape)
    if any(size < 1 for size in shape):
        raise ValueError(f"input_shape must hold sizes of at least 1, got {shape}")
    return shape


def _dims(module: nn.Module) -> int:
    """Spatial dimensions of a stock module, by the name of its class."""
    kind = next(kind for kind in type(module).__mro__ if kind.__name__[-2:] in ("1d", "2d", "3d"))
    return int(kind.__name__[-2])


def _image_size(
    module: nn.Module, shape: tuple[int, ...], dims: int, channels: int | None = None
) -> tuple[int, ...]:
    if len(shape) != dims + 1 or channels not in (None, shape[0]):
        raise ValueError(
            f"input_shape of {type(module).__name__} must be {dims + 1} sizes, "
            f"the first of {channels or 'any number of'} channels, got {shape}"
        )
    return shape[1:]
