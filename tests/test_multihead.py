"""Attention called as torch's, against torch's with every option."""

import itertools
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from contract import assert_near
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import sparsemat as sm

CONSTRUCTIONS = {
    "plain": {},
    "without biases": {"bias": False},
    "kdim and vdim": {"kdim": 5, "vdim": 3},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True},
    "all": {"kdim": 5, "vdim": 3, "add_bias_kv": True, "add_zero_attn": True},
}


def pair(**options):
    torch.manual_seed(0)
    options = {"batch_first": True, "dtype": torch.float64} | options
    native = nn.MultiheadAttention(6, 2, **options)
    layer = sm.MultiheadAttention(6, 2, **options)
    layer.load_state_dict(native.state_dict())
    return native, layer


def inputs(native, queries=4, keys=7, n=3):
    sizes = (queries, 6), (keys, native.kdim), (keys, native.vdim)
    shapes = [(n, *size) if native.batch_first else (size[0], n, size[1]) for size in sizes]
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("options", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
@pytest.mark.parametrize("batch_first", [True, False], ids=["n, T", "T, n"])
@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "no weights"])
def test_output_weights_and_gradients_are_those_of_torch(options, batch_first, need_weights):
    native, layer = pair(batch_first=batch_first, **options)
    native.train(), layer.train()  # torch's fast path takes no gradients
    ins = inputs(native)
    results = [part(*ins, need_weights=need_weights) for part in (native, layer)]
    for expected, actual in zip(*results, strict=True):
        assert (expected is None) == (actual is None)
        if expected is not None:
            assert_near(actual, expected)
    wanted = [
        torch.autograd.grad(y.square().sum(), [*ins, *part.parameters()])
        for part, (y, _) in zip((native, layer), results, strict=True)
    ]
    names = [name for name, _ in native.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in layer.named_parameters())
    theirs, mine = (
        dict(zip(["q", "k", "v", *dict(part.named_parameters())], grads, strict=True))
        for part, grads in zip((native, layer), wanted, strict=True)
    )
    for name, gradient in theirs.items():
        assert_near(mine[name], gradient)


def test_second_derivatives_are_those_of_torch():
    native, layer = pair()
    mask = torch.randn(4, 7, dtype=torch.float64).requires_grad_()
    for used in (None, mask):
        ins, found = inputs(native), []
        for part, kernel in ((native, sdpa_kernel(SDPBackend.MATH)), (layer, nullcontext())):
            leaves = [*ins, *([] if used is None else [used])]
            with kernel:
                y = part(*ins, need_weights=False, attn_mask=used)[0]
                first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
                penalty = sum(side.square().sum() for side in first)
                found.append([*first, *torch.autograd.grad(penalty, leaves)])
        for expected, actual in zip(*found, strict=True):
            assert_near(actual, expected)


MASKS = {
    "causal": {"attn_mask": torch.ones(4, 7).triu(1).bool()},
    "added": {"attn_mask": torch.randn(4, 7, dtype=torch.float64)},
    "a head": {"attn_mask": torch.randn(6, 4, 7, dtype=torch.float64)},
    "padding": {"key_padding_mask": torch.arange(7).expand(3, 7) > torch.tensor([[2], [6], [4]])},
}
MASKS["both"] = MASKS["causal"] | MASKS["padding"]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("average, need", list(itertools.product([True, False], repeat=2)))
def test_masks_are_those_of_torch(mask, average, need):
    for options in ({}, {"add_bias_kv": True, "add_zero_attn": True}):
        native, layer = pair(**options)
        call = {"average_attn_weights": average, "need_weights": need, **mask}
        ins = inputs(native)
        for actual, expected in zip(layer(*ins, **call), native(*ins, **call), strict=True):
            if expected is not None:
                assert_near(actual, expected)


def test_one_sequence_needs_no_batch_axis():
    native, layer = pair(kdim=5, vdim=3)
    q, k, v = (x[0] for x in inputs(native))
    hidden = torch.arange(7) > 4
    for actual, expected in zip(
        layer(q, k, v, key_padding_mask=hidden),
        native(q, k, v, key_padding_mask=hidden),
        strict=True,
    ):
        assert_near(actual, expected)


@pytest.mark.parametrize("options", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_the_matrix_is_the_jacobian_in_the_values(options):
    native, layer = pair(**options)
    q, k, v = (x[0].detach() for x in inputs(native))
    matrix = layer.matrix(q, k)
    jacobian = torch.autograd.functional.jacobian(lambda v: native(q, k, v)[0], v)
    assert_near(matrix.to_dense().detach(), jacobian.reshape(matrix.shape))
    assert matrix.shape == (4 * 6, 7 * native.vdim)


def of_one(mask):
    """The masks of the first of three sequences."""
    one = dict(mask)
    if "key_padding_mask" in one:
        one["key_padding_mask"] = one["key_padding_mask"][0]
    if "attn_mask" in one and one["attn_mask"].ndim == 3:
        one["attn_mask"] = one["attn_mask"][:2]
    return one


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("options", CONSTRUCTIONS.values(), ids=CONSTRUCTIONS)
def test_the_matrix_under_masks_is_the_jacobian_in_the_values(options, mask):
    native, layer = pair(**options)
    mask = of_one(mask)
    q, k, v = (x[0].detach() for x in inputs(native))
    matrix = layer.matrix(q, k, **mask).to_dense().detach()
    jacobian = torch.autograd.functional.jacobian(lambda v: native(q, k, v, **mask)[0], v)
    assert_near(matrix, jacobian.reshape(matrix.shape))
    if "key_padding_mask" in mask:
        columns = matrix.view(-1, 7, native.vdim)
        assert not columns[:, mask["key_padding_mask"]].any()
        assert columns[:, ~mask["key_padding_mask"]].any()


@pytest.mark.parametrize("causal", [False, True], ids=["all keys", "causal"])
def test_the_pattern_is_where_the_matrix_is(causal):
    native, layer = pair(kdim=5, vdim=3)
    hidden = torch.ones(4, 7).triu(1).bool() if causal else None
    q, k, _ = (x[0].detach() for x in inputs(native))
    found = layer.matrix(q, k, attn_mask=hidden).to_dense()
    pattern = layer.pattern(4, 7, hidden)
    assert pattern.nnz == pattern.num_parameters == (found != 0).sum()
    where = pattern.fill(torch.arange(1.0, pattern.nnz + 1)).to_dense()
    assert torch.equal(where != 0, found != 0)
    for wrong in (torch.zeros(4, 7), torch.zeros(7, 4, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"hidden must be booleans of shape \(4, 7\)"):
            layer.pattern(4, 7, wrong)
    with pytest.raises(ValueError, match="keys must be an integer of at least 1, got 0"):
        layer.pattern(4, 0)


@pytest.mark.parametrize("batch_first", [True, False], ids=["n, T", "T, n"])
@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "no weights"])
def test_with_the_same_seed_dropout_and_one_that_follows_draw_the_same(batch_first, need_weights):
    native, layer = pair(batch_first=batch_first, dropout=0.3)
    ins, results = inputs(native), []
    for part in (native, layer):
        torch.manual_seed(3)
        results.append(nn.functional.dropout(part(*ins, need_weights=need_weights)[0]))
    assert_near(results[1], results[0])


def counting(part, ran):
    def forward(*args, run=part.forward, **kwargs):
        ran.update([part])
        return run(*args, **kwargs)

    return forward


@pytest.mark.parametrize("training", [True, False])
def test_the_fast_paths_of_torch_do_not_go_round_it(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64, dropout=0)
    for native in (layer, nn.TransformerEncoder(layer, 2)):
        native.train(training)
        x = torch.randn(2, 5, 8, dtype=torch.float64)
        network = sm.from_module(native, (x,))
        parts = [m for m in network.modules() if isinstance(m, sm.MultiheadAttention)]
        ran = Counter()
        for part in parts:
            # a hook would switch the fast path off
            part.forward = counting(part, ran)
        with torch.no_grad():
            assert_near(network(x), native(x))
        assert parts and ran == Counter(parts)


BAD = {
    "query must .* end in 6 features": lambda f, q, k, v: f(q[..., :5], k, v),
    "key must .* end in 6 features": lambda f, q, k, v: f(q, k[0], v),
    "one number of tokens": lambda f, q, k, v: f(q, k, v[:, :3]),
    "attn_mask must have shape .4, 7.": lambda f, q, k, v: f(q, k, v, attn_mask=torch.zeros(7, 4)),
    "key_padding_mask must have shape .3, 7.": lambda f, q, k, v: f(
        q, k, v, key_padding_mask=torch.zeros(7, 3)
    ),
    "is_causal needs an attn_mask": lambda f, q, k, v: f(q, k, v, is_causal=True),
    "parameters' type torch.float64": lambda f, q, k, v: f(q.float(), k, v),
    "must be one sequence each": lambda f, q, k, v: f.matrix(q, k),
}


NO_MASKS = {
    "uint8": (torch.uint8, "got torch.uint8"),
    "int64": (torch.int64, "got torch.int64"),
    "complex": (torch.complex128, "got torch.complex128"),
}


@pytest.mark.parametrize("dtype, got", NO_MASKS.values(), ids=NO_MASKS)
@pytest.mark.parametrize("name, shape", [("attn_mask", (4, 7)), ("key_padding_mask", (3, 7))])
def test_a_mask_is_boolean_or_floating_as_for_torch(name, shape, dtype, got):
    native, layer = pair()
    mask = {name: torch.ones(shape, dtype=dtype)}
    with pytest.raises(AssertionError, match="only bool and floating types"):
        native(*inputs(native), **mask)
    for call in (layer, lambda q, k, v, **mask: layer.attention(q, k, **mask)):
        with pytest.raises(ValueError, match=f"{name} must be boolean or floating, {got}"):
            call(*inputs(native), **mask)
        with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor, got list"):
            call(*inputs(native), **{name: mask[name].tolist()})


@pytest.mark.parametrize("queries, keys", [(1, 2), (2, 1)])
@pytest.mark.parametrize("batch_first", [True, False], ids=["n, T", "T, n"])
def test_query_and_key_have_one_number_of_sequences_as_for_torch(batch_first, queries, keys):
    native, layer = pair(batch_first=batch_first)
    q, (k, v) = inputs(native, n=queries)[0], inputs(native, n=keys)[1:]
    with pytest.raises((RuntimeError, AssertionError)):
        native(q, k, v)
    message = f"one number of sequences, got {queries} and {keys}"
    for call in (layer, lambda q, k, v: layer.attention(q, k)):
        with pytest.raises(ValueError, match=message):
            call(q, k, v)


@pytest.mark.parametrize("message", BAD)
def test_what_does_not_fit_is_named(message):
    native, layer = pair()
    with pytest.raises(ValueError, match=message):
        BAD[message](layer, *inputs(native))
