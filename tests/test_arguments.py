"""What is no argument is refused: every error is ours and names the value."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import sparsemat as sm
from sparsemat.lazy import Block, Chain, Kronecker, Scaled, Sum

MATRIX = sm.conv_pattern(1, 1, 4, 2).fill(torch.ones(2))
PACKED = pack_sequence([torch.ones(3, 2)])
NO_SIZE = {
    "None": None,
    "a float": 5.7,
    "a whole float": 5.0,
    "a string": "255",
    "bytes": b"5",
    "True": True,
    "zero": 0,
    "a negative number": -3,
    "a dict": {"height": 5},
    "a set": {5},
    "an empty tuple": (),
    "a tuple of floats": (5.5, 5),
    "a tuple of strings": ("5", "5"),
    "a tuple with None": (None, 5),
    "a nested tuple": ((5, 5), 5),
    "too many numbers": (5, 5, 5, 5),
    "an array of floats": np.array([5.5, 5.0]),
    "a tensor of a float": torch.tensor(5.5),
    "a complex number": 5j,
    "a module": nn.ReLU(),
}
NO_COUNT = {
    name: NO_SIZE[name]
    for name in ("None", "a float", "a string", "True", "zero", "a negative number", "a dict")
} | {"a tuple": (4,), "a tensor of a float": torch.tensor(4.5), "not a number": float("nan")}
NO_FLAG = {"a string": "no", "a number": 1, "None": None, "a tuple": (True,), "a float": 0.0}
NO_MODULE = {
    "None": None,
    "a string": "Conv2d",
    "a class": nn.Conv2d,
    "a function": torch.relu,
    "a list of modules": [nn.Linear(5, 5)],
    "a tensor": torch.ones(5, 5),
    "a matrix": MATRIX,
    "a pattern": MATRIX.pattern,
    "a state dict": {"weight": torch.ones(2)},
}
NO_INPUT = {
    "None": None,
    "a list": [[1.0] * 5] * 5,
    "an array": np.ones((1, 1, 5, 5), dtype=np.float32),
    "a string": "image",
    "a packed sequence": PACKED,
    "a tuple of tensors": (torch.ones(1, 1, 5, 5),),
    "integers": torch.ones(1, 1, 5, 5, dtype=torch.int64),
    "booleans": torch.ones(1, 1, 5, 5, dtype=torch.bool),
}
OTHER_TYPE = {"float64": torch.float64, "bfloat16": torch.bfloat16, "complex": torch.complex64}

CONV = {"in_channels": 1, "out_channels": 1, "kernel_size": 3, "input_size": 5}
POOL = {"kernel_size": 3, "input_size": 5}
# a function, its right arguments, those that are sizes, counts and flags
CALLS = {
    "conv_pattern": (
        lambda input_size, kernel_size, **rest: sm.conv_pattern(
            1, 1, input_size, kernel_size, **rest
        ),
        {"input_size": (5, 5), "kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1},
        ("input_size", "kernel_size", "stride", "dilation"),
        (),
        (),
    ),
    "avg_pool_pattern": (
        lambda channels, input_size, kernel_size, **rest: sm.avg_pool_pattern(
            channels, input_size, kernel_size, **rest
        ),
        {"channels": 1, "input_size": (5, 5), "kernel_size": 3, "ceil_mode": False},
        ("input_size", "kernel_size"),
        ("channels",),
        ("ceil_mode",),
    ),
    "Conv2d": (
        sm.Conv2d,
        CONV | {"stride": 1, "dilation": 1, "groups": 1, "bias": True, "tied": True},
        ("kernel_size", "input_size", "stride", "dilation"),
        ("in_channels", "out_channels", "groups"),
        ("bias", "tied"),
    ),
    "ConvTranspose2d": (
        sm.ConvTranspose2d,
        CONV | {"stride": 1, "dilation": 1, "groups": 1, "bias": True, "tied": True},
        ("kernel_size", "input_size", "stride", "dilation"),
        ("in_channels", "out_channels", "groups"),
        ("bias", "tied"),
    ),
    "AvgPool2d": (
        sm.AvgPool2d,
        POOL | {"ceil_mode": False, "count_include_pad": True},
        ("kernel_size", "input_size"),
        (),
        ("ceil_mode", "count_include_pad"),
    ),
    "MaxPool2d": (
        sm.MaxPool2d,
        POOL | {"dilation": 1, "ceil_mode": False},
        ("kernel_size", "input_size", "dilation"),
        (),
        ("ceil_mode",),
    ),
    "AdaptiveAvgPool2d": (
        sm.AdaptiveAvgPool2d,
        {"output_size": 2, "input_size": 5},
        ("input_size",),
        (),
        (),
    ),
    "RNN": (
        sm.RNN,
        {"input_size": 2, "hidden_size": 3, "num_layers": 1, "bias": True, "batch_first": True},
        (),
        ("input_size", "hidden_size", "num_layers"),
        ("bias", "batch_first"),
    ),
    "SelfAttention": (
        sm.SelfAttention,
        {"embed_dim": 4, "num_heads": 2, "bias": True, "batch_first": True},
        (),
        ("embed_dim", "num_heads"),
        ("bias", "batch_first"),
    ),
    "SparseLinear": (
        lambda bias: sm.SparseLinear(MATRIX.pattern, bias),
        {"bias": True},
        (),
        (),
        ("bias",),
    ),
    "dense_pattern": (sm.dense_pattern, {"rows": 2, "cols": 3}, (), ("rows", "cols"), ()),
    "identity_pattern": (sm.identity_pattern, {"size": 2}, (), ("size",), ()),
    "diagonal_pattern": (sm.diagonal_pattern, {"size": 2}, (), ("size",), ()),
    "shift_pattern": (sm.shift_pattern, {"size": 3}, (), ("size",), ()),
    "lag_pattern": (sm.lag_pattern, {"steps": 5, "window": 2}, (), ("steps", "window"), ()),
    "allowed_pairs": (
        sm.allowed_pairs,
        {"tokens": 4, "causal": False},
        (),
        ("tokens",),
        ("causal",),
    ),
    "attention_pattern": (
        sm.attention_pattern,
        {"tokens": 2, "dim": 2, "causal": False},
        (),
        ("tokens", "dim"),
        ("causal",),
    ),
    "recurrence_patterns": (
        sm.recurrence_patterns,
        {"steps": 3, "input_size": 2, "hidden_size": 2},
        (),
        ("steps", "input_size", "hidden_size"),
        (),
    ),
}
EMPTY_IS_FINE = ("dense_pattern", "identity_pattern", "diagonal_pattern", "shift_pattern")
MAPPED = ("AvgPool2d", "MaxPool2d", "Conv2d", "ConvTranspose2d")


def bad_arguments():
    for call, (function, right, sizes, counts, flags) in CALLS.items():
        kinds = ((sizes, NO_SIZE), (counts, NO_COUNT), (flags, NO_FLAG))
        for names, values in kinds:
            for name in names:
                for what, value in values.items():
                    if what == "zero" and call in EMPTY_IS_FINE:
                        continue
                    if what == "too many numbers" and name == "input_size" and "pattern" in call:
                        continue  # the number of dimensions is free
                    yield f"{call}, {name}: {what}", (function, right | {name: value}, name, value)


BAD = dict(bad_arguments())


def shown(value):
    """Some text that a message shows for this value: itself, or one of its entries."""
    if isinstance(value, torch.Tensor):
        return [repr(value), str(value.item() if value.ndim == 0 else value.tolist())]
    if isinstance(value, (tuple, np.ndarray)) and len(value):
        return [repr(value), repr(tuple(value)), *(repr(part) for part in value)]
    return [repr(value), type(value).__name__, *(["none"] if value == () else [])]


@pytest.mark.parametrize("function, arguments, name, value", BAD.values(), ids=BAD)
def test_a_bad_argument_is_named(function, arguments, name, value):
    with pytest.raises((ValueError, TypeError)) as error:
        function(**arguments)
    assert name in str(error.value), error.value
    assert any(text in str(error.value) for text in shown(value)), error.value


LAYERS = {
    "Conv2d": lambda: sm.Conv2d(1, 1, 3, input_size=5),
    "ConvTranspose2d": lambda: sm.ConvTranspose2d(1, 1, 3, input_size=5),
    "AvgPool2d": lambda: sm.AvgPool2d(3, input_size=5),
    "AdaptiveAvgPool2d": lambda: sm.AdaptiveAvgPool2d(3, input_size=5),
    "MaxPool2d": lambda: sm.MaxPool2d(3, input_size=5),
    "SparseLinear": lambda: sm.SparseLinear(sm.dense_pattern(2, 5)),
    "RNN": lambda: sm.RNN(5, 3),
    "SelfAttention": lambda: sm.SelfAttention(5, 1),
}
INPUTS = {
    f"{layer}: {what}": (build, value)
    for layer, build in LAYERS.items()
    for what, value in NO_INPUT.items()
    # a maximum of integers is as right as torch's
    if not (layer == "MaxPool2d" and what in ("integers", "booleans"))
}


@pytest.mark.parametrize("build, value", INPUTS.values(), ids=INPUTS)
def test_what_is_no_input_is_refused(build, value):
    if torch.is_tensor(value) and isinstance(build(), (sm.RNN, sm.SelfAttention)):
        value = value[0]
    with pytest.raises((ValueError, TypeError)) as error:
        build()(value)
    shape = getattr(value, "dtype", type(value).__name__)
    assert str(shape) in str(error.value) or type(value).__name__ in str(error.value), error.value


@pytest.mark.parametrize("dtype", OTHER_TYPE.values(), ids=OTHER_TYPE)
@pytest.mark.parametrize(
    "layer", ["Conv2d", "ConvTranspose2d", "SparseLinear", "RNN", "SelfAttention"]
)
def test_an_input_of_another_type_is_refused(layer, dtype):
    x = torch.ones(1, 1, 5, 5) if "Conv" in layer else torch.ones(2, 5, 5)
    with pytest.raises(ValueError, match=rf"torch.float32.*{dtype}"):
        LAYERS[layer]()(x.to(dtype))


@pytest.mark.parametrize("value", NO_MODULE.values(), ids=NO_MODULE)
@pytest.mark.parametrize("convert", [sm.to_matrix, sm.from_module], ids=lambda f: f.__name__)
def test_what_is_no_module_is_refused(convert, value):
    with pytest.raises(TypeError, match=rf"must be a torch.nn.Module, got {type(value).__name__}"):
        convert(value, (1, 5, 5))


NO_SHAPE = {
    name: value
    for name, value in NO_SIZE.items()
    if name not in ("an empty tuple", "too many numbers", "a module")
} | {"an array": np.array([1.0, 5.0])}


@pytest.mark.parametrize("value", NO_SHAPE.values(), ids=NO_SHAPE)
@pytest.mark.parametrize("convert", [sm.to_matrix, sm.from_module], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "module", [nn.Conv2d(1, 1, 3), nn.Sequential(nn.Conv2d(1, 1, 3))], ids=["Conv2d", "Sequential"]
)
def test_what_is_no_shape_is_refused(module, convert, value):
    if isinstance(value, (torch.Tensor, dict)) and convert is sm.from_module:
        pytest.skip("an example input")
    with pytest.raises((ValueError, TypeError), match="input_shape") as error:
        convert(module, value)
    assert any(text in str(error.value) for text in shown(value)), error.value


LAZY = {
    "LazyLinear": nn.LazyLinear(2),
    "LazyConv2d": nn.LazyConv2d(2, 3),
    "LazyConvTranspose2d": nn.LazyConvTranspose2d(2, 3),
    "LazyBatchNorm2d": nn.LazyBatchNorm2d().eval(),
    "LazyInstanceNorm2d without parameters": nn.LazyInstanceNorm2d(track_running_stats=True).eval(),
    "a part of a network": nn.Sequential(nn.ReLU(), nn.LazyLinear(2)),
}


@pytest.mark.parametrize("module", LAZY.values(), ids=LAZY)
@pytest.mark.parametrize("convert", [sm.to_matrix, sm.from_module], ids=lambda f: f.__name__)
def test_a_lazy_module_must_be_called_once(convert, module):
    with pytest.raises(ValueError, match="lazy module; call the module once"):
        convert(module, (1, 5, 5))


def changed(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


ONES = torch.ones(2)
OTHERS = {
    "from_module, tied: a string": (
        lambda: sm.from_module(nn.Conv2d(1, 1, 3), (1, 5, 5), tied="no"),
        "tied must be True or False, got 'no'",
    ),
    "from_module, causal: a number": (
        lambda: sm.from_module(nn.MultiheadAttention(4, 2), (3, 4), causal=1),
        "causal must be True or False, got 1",
    ),
    "from_module, window: a float": (
        lambda: sm.from_module(nn.MultiheadAttention(4, 2), (3, 4), window=1.5),
        "window must be an integer of at least 0, got 1.5",
    ),
    "from_module, form: a number": (
        lambda: sm.from_module(nn.Conv2d(1, 1, 3), (1, 5, 5), form=3),
        "form must be one of .*got 3",
    ),
    "from_module, only: a string": (
        lambda: sm.from_module(nn.Sequential(nn.Conv2d(1, 1, 3)), (1, 5, 5), only="0"),
        "only must be a function .*got '0'",
    ),
    "to_matrix, dtype: integers": (
        lambda: sm.to_matrix(nn.AvgPool2d(2), (1, 4, 4), dtype=torch.int64),
        "dtype must be floating-point or complex, got torch.int64",
    ),
    "to_matrix, dtype: a string": (
        lambda: sm.to_matrix(nn.AvgPool2d(2), (1, 4, 4), dtype="float64"),
        "dtype must be a torch.dtype, got 'float64'",
    ),
    "to_matrix, dtype: another than the parameters": (
        lambda: sm.to_matrix(nn.Linear(4, 2), (4,), dtype=torch.float64),
        "are torch.float32 .*got dtype=torch.float64",
    ),
    "Conv2d, attribute stride: zero": (
        lambda: sm.to_matrix(changed(nn.Conv2d(1, 1, 3), stride=0), (1, 5, 5)),
        "stride must be integers of at least 1, got 0",
    ),
    "Conv2d, attribute dilation: a float": (
        lambda: sm.to_matrix(changed(nn.Conv2d(1, 1, 3), dilation=1.5), (1, 5, 5)),
        "dilation must be integers of at least 1, got 1.5",
    ),
    "Conv2d, attribute padding_mode: unknown": (
        lambda: sm.to_matrix(changed(nn.Conv2d(1, 1, 3), padding_mode="wrap"), (1, 5, 5)),
        "padding_mode must be one of .*got 'wrap'",
    ),
    "Conv2d, attribute groups: two": (
        lambda: sm.to_matrix(changed(nn.Conv2d(1, 1, 3), groups=2), (1, 5, 5)),
        "groups must divide in_channels, got groups=2 and in_channels=1",
    ),
    "ConvTranspose2d, attribute padding: same": (
        lambda: sm.to_matrix(changed(nn.ConvTranspose2d(1, 1, 3), padding="same"), (1, 5, 5)),
        "padding must be integers of at least 0, got 'same'",
    ),
    "ConvTranspose2d, argument padding: same": (
        lambda: sm.ConvTranspose2d(1, 1, 3, padding="same", input_size=5),
        "padding must be integers of at least 0, got 'same'",
    ),
    "ConvTranspose2d, output padding of a stride": (
        lambda: sm.ConvTranspose2d(1, 1, 3, 2, output_padding=2, input_size=5),
        "output_padding must be below .* got 2 with stride 2",
    ),
    "Conv3d, kernel larger than the padded volume": (
        lambda: sm.Conv3d(1, 1, (2, 8, 2), padding=1, input_size=5),
        "must fit the padded input, got extent 8 and size 7",
    ),
    "AvgPool3d, kernel larger than the volume": (
        lambda: sm.AvgPool3d((2, 6, 2), input_size=5),
        "must fit the padded input, got extent 6 and size 5",
    ),
    "MaxPool2d, dilated kernel larger than the image": (
        lambda: sm.MaxPool2d(3, dilation=3, input_size=5),
        "must fit the padded input, got extent 7 and size 5",
    ),
    "AvgPool2d, divisor: a float": (
        lambda: sm.AvgPool2d(2, divisor_override=1.5, input_size=4),
        "divisor_override must be an integer of at least 1, got 1.5",
    ),
    "AvgPool2d, padding: a string": (
        lambda: sm.AvgPool2d(2, padding="same", input_size=4),
        "padding must be integers of at least 0, got 'same'",
    ),
    "Conv2d, padding: a float": (
        lambda: sm.Conv2d(1, 1, 3, padding=1.5, input_size=5),
        "padding must be integers of at least 0, got 1.5",
    ),
    "Conv2d, padding: unknown word": (
        lambda: sm.Conv2d(1, 1, 3, padding="full", input_size=5),
        "got 'full'",
    ),
    "Conv2d, padding_mode: a number": (
        lambda: sm.Conv2d(1, 1, 3, padding_mode=1, input_size=5),
        "padding_mode must be one of .*got 1",
    ),
    "Conv2d, padding_mode: a list": (
        lambda: sm.Conv2d(1, 1, 3, padding_mode=["zeros"], input_size=5),
        "padding_mode must be one of .*'zeros'",
    ),
    "AdaptiveAvgPool2d, output_size: a string": (
        lambda: sm.AdaptiveAvgPool2d("7", input_size=5),
        "output_size must be integers of at least 1, got '7'",
    ),
    "AdaptiveAvgPool2d, output_size: a float": (
        lambda: sm.AdaptiveAvgPool2d(2.5, input_size=5),
        "output_size must be integers of at least 1, got 2.5",
    ),
    "AdaptiveAvgPool2d, output_size: a dict": (
        lambda: sm.AdaptiveAvgPool2d({2: 2}, input_size=5),
        "output_size must be integers of at least 1, got {2: 2}",
    ),
    "Pattern, shape: a number": (lambda: sm.Pattern(3, [0], [0], [0], 1), "shape .*got 3"),
    "Pattern, shape: floats": (
        lambda: sm.Pattern((2.5, 2), [0], [0], [0], 1),
        "shape .*got .2.5, 2",
    ),
    "Pattern, shape: strings": (
        lambda: sm.Pattern(("2", "2"), [0], [0], [0], 1),
        "shape .*got .'2', '2'",
    ),
    "Pattern, shape: booleans": (
        lambda: sm.Pattern((True, True), [0], [0], [0], 1),
        "shape .*got .True, True",
    ),
    "Pattern, num_parameters: a float": (
        lambda: sm.Pattern((2, 2), [0], [0], [0], 1.5),
        "num_parameters .*got 1.5",
    ),
    "Pattern, num_parameters: None": (
        lambda: sm.Pattern((2, 2), [0], [0], [0], None),
        "num_parameters .*got None",
    ),
    "Pattern, row: floats": (
        lambda: sm.Pattern((2, 2), [0.5], [0], [0], 1),
        "row must hold integers, got dtype float64",
    ),
    "Pattern, row: None": (lambda: sm.Pattern((2, 2), None, [0], [0], 1), "row must .*got"),
    "Pattern, col: strings": (
        lambda: sm.Pattern((2, 2), [0], ["a"], [0], 1),
        "col must hold integers, got dtype <U1",
    ),
    "Pattern, col: ragged": (
        lambda: sm.Pattern((2, 2), [0], [[0], [0, 1]], [0], 1),
        r"col must .*got \[\[0\], \[0, 1\]\]",
    ),
    "Pattern, index: booleans": (
        lambda: sm.Pattern((2, 2), [0], [0], [True], 1),
        "index must hold integers, got dtype bool",
    ),
    "Pattern, index: out of range": (
        lambda: sm.Pattern((2, 2), [0], [0], [1], 1),
        "index must lie in 0..0, got 1..1",
    ),
    "Pattern @ an array": (lambda: MATRIX.pattern @ np.ones((4, 4)), "ndarray"),
    "Pattern @ a matrix": (lambda: MATRIX.pattern @ MATRIX, "SparseMatrix"),
    "Pattern.rows: floats": (lambda: MATRIX.pattern.rows(0.5, 2), "rows must .*got 0.5"),
    "Pattern.permute: floats": (
        lambda: MATRIX.pattern.permute(rows=[0.0, 1.0, 2.0]),
        "rows must be a permutation",
    ),
    "Pattern.equals: None": (
        lambda: MATRIX.pattern.equals(None),
        "must be a Pattern, got NoneType",
    ),
    "kron: an array": (lambda: sm.kron(np.ones((2, 2))), "must be patterns, got ndarray"),
    "kron, order: strings": (
        lambda: sm.kron(MATRIX.pattern, MATRIX.pattern, order="ab"),
        "order must be a permutation of 0..1, got .*'a'",
    ),
    "fill: a string": (lambda: MATRIX.pattern.fill("ones"), "theta must .*got str"),
    "fill: None": (lambda: MATRIX.pattern.fill(None), "theta must .*got NoneType"),
    "fill: a dict": (lambda: MATRIX.pattern.fill({0: 1.0}), "theta must .*got dict"),
    "fill: a list of strings": (lambda: MATRIX.pattern.fill(["a", "b"]), "theta must .*got list"),
    "fill: too few": (lambda: MATRIX.pattern.fill([1.0]), "num_parameters=2 values, got 1"),
    "fill: a number": (lambda: MATRIX.pattern.fill(1.0), "num_parameters=2 values, got 1"),
    "SparseMatrix: a tensor as pattern": (
        lambda: sm.SparseMatrix(torch.ones(2, 2), ONES),
        "must be a Pattern, got Tensor",
    ),
    "SparseMatrix: None as pattern": (
        lambda: sm.SparseMatrix(None, ONES),
        "must be a Pattern, got NoneType",
    ),
    "SparseLinear: a tensor as pattern": (
        lambda: sm.SparseLinear(torch.ones(2, 2)),
        "must be a Pattern, got Tensor",
    ),
    "SparseLinear: None": (lambda: sm.SparseLinear(None), "must be a Pattern, got NoneType"),
    "SparseLinear, form: unknown": (
        lambda: sm.SparseLinear(MATRIX.pattern, form="csr"),
        "form must be one of .*got 'csr'",
    ),
    "from_linear, mask: a list": (
        lambda: sm.SparseLinear.from_linear(nn.Linear(2, 2), [[True, False], [True, True]]),
        "mask must .*got list",
    ),
    "from_linear, mask: numbers": (
        lambda: sm.SparseLinear.from_linear(nn.Linear(2, 2), torch.ones(2, 2)),
        "mask must be booleans, got torch.float32",
    ),
    "from_linear: a convolution": (
        lambda: sm.SparseLinear.from_linear(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 1, 1) > 0),
        "linear must be .*Linear, got Conv2d",
    ),
    "prune_and_regrow, fraction: a string": (
        lambda: sm.SparseLinear(sm.diagonal_pattern(3)).prune_and_regrow("half"),
        "fraction must lie in 0..1, got 'half'",
    ),
    "prune_and_regrow, fraction: too large": (
        lambda: sm.SparseLinear(sm.diagonal_pattern(3)).prune_and_regrow(1.5),
        "fraction must lie in 0..1, got 1.5",
    ),
    "prune_and_regrow, fraction: not a number": (
        lambda: sm.SparseLinear(sm.diagonal_pattern(3)).prune_and_regrow(float("nan")),
        "fraction must lie in 0..1, got nan",
    ),
    "prune_and_regrow, scores: NaN": (
        lambda: sm.SparseLinear(sm.diagonal_pattern(3)).prune_and_regrow(
            0.5, scores=torch.full((3, 3), float("nan"))
        ),
        "scores must have an order by size, got NaN in it",
    ),
    "prune_and_regrow, scores: an array": (
        lambda: sm.SparseLinear(sm.diagonal_pattern(3)).prune_and_regrow(
            0.5, scores=np.ones((3, 3))
        ),
        "scores must .*got ndarray",
    ),
    "W @ an array": (lambda: MATRIX @ np.ones(4), "got ndarray"),
    "W @ a list": (lambda: MATRIX @ [1.0] * 4, "got list"),
    "W @ a packed sequence": (lambda: MATRIX @ PACKED, "got PackedSequence"),
    "W @ integers": (lambda: MATRIX @ torch.ones(4, dtype=torch.int64), "float32 and torch.int64"),
    "an array @ W": (lambda: np.ones(3) @ MATRIX, "got ndarray"),
    "integers @ W": (lambda: torch.ones(3, dtype=torch.int64) @ MATRIX, "int64"),
    "W + a tensor": (lambda: MATRIX + torch.ones(3, 4), "SparseMatrix"),
    "W + a number": (lambda: MATRIX + 1, "SparseMatrix.*int"),
    "W * a vector": (lambda: MATRIX * torch.ones(4), "SparseMatrix"),
    "W / None": (lambda: MATRIX / None, "SparseMatrix.*NoneType"),
    "W of another shape added": (lambda: MATRIX + MATRIX.T, r"\(3, 4\).*\(4, 3\)"),
    "W of another type added": (lambda: MATRIX + MATRIX.to(torch.float64), "float32.*float64"),
    "W.to integers": (
        lambda: MATRIX.to(torch.int64),
        "dtype must be floating-point or complex, got torch.int64",
    ),
    "Chain of nothing": (Chain, "at least one matrix, got none"),
    "Chain of tensors": (lambda: Chain(torch.ones(2, 2)), "got Tensor"),
    "Sum of a list": (lambda: Sum([MATRIX, MATRIX]), "got list"),
    "Kronecker of patterns": (lambda: Kronecker(MATRIX.pattern), "got Pattern|KroneckerPattern"),
    "Scaled by a list": (lambda: Scaled(MATRIX, [2.0]), "scalar must be a number, got list"),
    "Block of a matrix": (lambda: Block(MATRIX), "got SparseMatrix"),
    "Block of None": (lambda: Block(None), "got NoneType"),
    "Block of empty rows": (lambda: Block([[]]), "at least one matrix, got none"),
    "mask_pattern: None": (lambda: sm.mask_pattern(None), "mask must .*got"),
    "mask_pattern: numbers": (lambda: sm.mask_pattern(np.ones((2, 2))), "got float64"),
    "permutation_pattern: None": (lambda: sm.permutation_pattern(None), "order must .*got None"),
    "permutation_pattern: a number": (lambda: sm.permutation_pattern(3), "order must .*got 3"),
    "permutation_pattern: repeated": (
        lambda: sm.permutation_pattern([0, 0]),
        "must be a permutation of 0..1",
    ),
    "selection_pattern: floats": (lambda: sm.selection_pattern([0.5], 2), "got .*float64"),
    "selection_pattern: None": (lambda: sm.selection_pattern(None, 2), "cols must .*got None"),
    "selection_pattern, size: a float": (
        lambda: sm.selection_pattern([0], 2.5),
        "size must .*got 2.5",
    ),
    "shift_pattern, by: a float": (lambda: sm.shift_pattern(3, 0.5), "by must .*got 0.5"),
    "one_hot_pattern: floats": (lambda: sm.one_hot_pattern([0.5], 2), "got float64"),
    "one_hot_pattern: None": (lambda: sm.one_hot_pattern(None, 2), "tokens must .*got"),
    "allowed_pairs, window: a float": (
        lambda: sm.allowed_pairs(3, window=1.5),
        "window must be an integer of at least 0, got 1.5",
    ),
    "avg_pool_pattern, divisor: a string": (
        lambda: sm.avg_pool_pattern(1, 4, 2, divisor_override="2"),
        "divisor_override must be an integer of at least 1, got '2'",
    ),
    "avg_pool_pattern, count_include_pad: a number": (
        lambda: sm.avg_pool_pattern(1, 4, 2, count_include_pad=1),
        "count_include_pad must be True or False, got 1",
    ),
    "AvgPool2d.matrix, channels: a float": (
        lambda: sm.AvgPool2d(2, input_size=4).matrix(1.5),
        "channels must be an integer of at least 1, got 1.5",
    ),
    "MaxPool2d.matrix: a list": (
        lambda: sm.MaxPool2d(2, input_size=4).matrix([1.0]),
        "must be .*got list",
    ),
}


@pytest.mark.parametrize("call, message", OTHERS.values(), ids=OTHERS)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


PAIRS = {
    "Conv2d": (sm.Conv2d, nn.Conv2d, (1, 2)),
    "ConvTranspose2d": (sm.ConvTranspose2d, nn.ConvTranspose2d, (1, 2)),
    "AvgPool2d": (sm.AvgPool2d, nn.AvgPool2d, ()),
    "MaxPool2d": (sm.MaxPool2d, nn.MaxPool2d, ()),
}
SPELLINGS = {
    "numbers": {"kernel_size": 3, "stride": 2, "padding": 1},
    "one-element tuples": {"kernel_size": (3,), "stride": (2,), "padding": (1,)},
    "one-element lists": {"kernel_size": [3], "stride": [2], "padding": [1]},
    "pairs": {"kernel_size": (3, 3), "stride": (2, 2), "padding": (1, 1)},
    "tensors": {name: torch.tensor(v) for name, v in (("kernel_size", 3), ("stride", 2))}
    | {"padding": np.int64(1)},
}


@pytest.mark.parametrize("options", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("mine, native, channels", PAIRS.values(), ids=PAIRS)
def test_every_spelling_means_the_same(mine, native, channels, options):
    x = torch.randn(2, 1, 7, 7)
    module = native(*channels, 3, 2, 1)
    layer = mine(*channels, **options, input_size=(7,))
    layer.load_state_dict(module.state_dict())
    torch.testing.assert_close(layer(x), module(x))


@pytest.mark.parametrize("spelling", [(2,), [2]], ids=repr)
def test_a_module_with_one_element_tuples_means_what_torch_means(spelling):
    """Torch's functions take one number for all dimensions; its convolutions want all alike."""
    x = torch.randn(1, 2, 8, 8)
    modules = [nn.AvgPool2d(spelling, spelling), nn.AvgPool2d(spelling)]
    convolution = nn.Conv2d(2, 2, 2)
    convolution.stride = convolution.dilation = (1,)
    convolution.padding = (1,)
    for module in (*modules, convolution):
        W, b = sm.to_matrix(module, (2, 8, 8))
        expected = module(x)
        torch.testing.assert_close(W @ x.reshape(-1) + b, expected.reshape(-1))
        torch.testing.assert_close(sm.from_module(module, (2, 8, 8))(x), expected)
    maxima = nn.MaxPool2d(spelling, padding=(1,))
    torch.testing.assert_close(sm.from_module(maxima, (2, 8, 8))(x), maxima(x))


@pytest.mark.parametrize("stride", [None, (), []], ids=repr)
@pytest.mark.parametrize(
    "name", ["AvgPool1d", "AvgPool2d", "AvgPool3d", "MaxPool1d", "MaxPool2d", "MaxPool3d"]
)
def test_no_stride_of_a_pooling_is_its_window(name, stride):
    dims = int(name[-2])
    native = getattr(nn, name)(2)
    layer = getattr(sm, name)(2, stride, input_size=4)
    native.stride = stride if stride is not None else native.stride
    x = torch.randn(1, 2, *(4,) * dims)
    torch.testing.assert_close(layer(x), native(x))
    torch.testing.assert_close(sm.from_module(native, tuple(x.shape[1:]))(x), native(x))


@pytest.mark.parametrize("stride", [None, ()], ids=repr)
@pytest.mark.parametrize("kind", [sm.Conv2d, sm.ConvTranspose2d])
def test_a_convolution_needs_a_stride(kind, stride):
    with pytest.raises(
        ValueError, match=r"stride must (be integers|have 2 entries).*got (None|\(\))"
    ):
        kind(1, 1, 3, stride, input_size=5)
