"""The attention layer against torch.nn.MultiheadAttention, and its forms against one another."""

import numpy as np
import pytest
import torch
from contract import Case, LayerContract, assert_near
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsemat import SelfAttention, allowed_pairs, attention_pattern, third_order

MASKS = {
    "full": {},
    "causal": {"causal": True},
    "window 0": {"window": 0},
    "window 2": {"window": 2},
    "causal window 1": {"causal": True, "window": 1},
    "window beyond the end": {"window": 1000},
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
softmax_or_linear = pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])


def hidden(tokens, causal=False, window=None):
    """torch's mask: True where attention is not allowed."""
    pairs = np.indices((tokens, tokens))
    seen = np.ones((tokens, tokens), dtype=bool)
    if causal:
        seen &= pairs[1] <= pairs[0]
    if window is not None:
        seen &= abs(pairs[0] - pairs[1]) <= window
    return torch.from_numpy(~seen)


def pair(mask, dim=8, heads=2, bias=True, dtype=torch.float64):
    """torch's layer and ours with the same parameters, none of them zero."""
    torch.manual_seed(0)
    native = torch.nn.MultiheadAttention(dim, heads, bias=bias, batch_first=True, dtype=dtype)
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    layer = SelfAttention(dim, heads, bias=bias, **mask, dtype=dtype, batch_first=True)
    layer.load_state_dict(native.state_dict())
    return native, layer


def linear_layer(dim=3, heads=1, bias=False, **mask):
    torch.manual_seed(0)
    return SelfAttention(
        dim, heads, bias=bias, softmax=False, **mask, dtype=torch.float64, batch_first=True
    )


def definition(layer, x):
    """Linear attention of one sequence, head by head, from the formula."""
    at = ~hidden(len(x), layer.causal, layer.window)
    bias = layer.in_proj_bias
    projected = x @ layer.in_proj_weight.T + (0 if bias is None else bias)
    y = torch.zeros_like(x) if layer.out_proj.bias is None else layer.out_proj.bias.expand(x.shape)
    for head in range(layer.num_heads):
        columns = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        q, k, v = (side[:, columns] for side in projected.chunk(3, 1))
        y = y + at * (q @ k.T) / layer.head_dim**0.5 @ v @ layer.out_proj.weight[:, columns].T
    return y


# the pattern


@given(st.integers(1, 9), st.booleans(), st.one_of(st.none(), st.integers(0, 10)))
def test_allowed_pairs_are_those_of_the_mask(tokens, causal, window):
    i, j = allowed_pairs(tokens, causal=causal, window=window)
    right = (~hidden(tokens, causal, window)).nonzero().T.numpy()
    np.testing.assert_array_equal([i, j], right)


@pytest.mark.parametrize(("dim", "out_dim"), [(1, None), (2, None), (2, 1), (1, 3)])
@each_mask
def test_the_pattern_is_the_cubic_form(mask, dim, out_dim):
    tokens, width = 3, 3 * dim
    pattern = attention_pattern(tokens, dim, out_dim, **mask)
    out_dim = dim if out_dim is None else out_dim
    torch.manual_seed(0)
    theta = torch.randn(dim, dim, dim, out_dim, dtype=torch.float64)
    x = torch.randn(tokens, dim, dtype=torch.float64)
    seen = (~hidden(tokens, **mask)).double()
    right = torch.einsum("ij,abco,ia,jb,jc->io", seen, theta, x, x, x)
    flat = x.reshape(-1)
    cube = torch.einsum("p,q,r->pqr", flat, flat, flat).reshape(-1)
    torch.testing.assert_close(
        (pattern.fill(theta) @ cube).view(tokens, out_dim), right, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        third_order(pattern, theta, x).view(tokens, out_dim), right, rtol=1e-12, atol=1e-12
    )
    assert pattern.shape == (tokens * out_dim, width**3)
    assert pattern.nnz == int(seen.sum()) * dim**3 * out_dim
    assert not pattern.has_duplicates


@given(st.integers(1, 11), st.integers(0, 12), st.booleans())
def test_the_number_of_pairs_in_a_window(tokens, window, causal):
    pairs = len(allowed_pairs(tokens, causal=causal, window=window)[0])
    w = min(window, tokens - 1)
    half = tokens * w - w * (w + 1) // 2
    assert pairs == tokens + (half if causal else 2 * half)


def test_gradients_of_the_third_order_form():
    pattern = attention_pattern(2, 2, causal=True)
    torch.manual_seed(0)
    theta = torch.randn(16, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *sides: third_order(pattern, *sides), (theta, x))
    assert torch.autograd.gradgradcheck(lambda *sides: third_order(pattern, *sides), (theta, x))


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        pytest.param({"tokens": 0}, "tokens must be an integer of at least 1, got 0", id="tokens"),
        pytest.param({"dim": 0}, "dim must be an integer of at least 1, got 0", id="dim"),
        pytest.param(
            {"out_dim": 0}, "out_dim must be an integer of at least 1, got 0", id="out_dim"
        ),
        pytest.param(
            {"window": -1}, "window must be an integer of at least 0, got -1", id="window"
        ),
        pytest.param({"tokens": 2**21}, r"below 2\*\*63, got tokens \* dim = 4194304", id="size"),
    ],
)
def test_patterns_that_cannot_be_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        attention_pattern(**{"tokens": 2, "dim": 2} | arguments)


def test_third_order_refuses_what_does_not_fit():
    pattern = attention_pattern(2, 2)
    with pytest.raises(ValueError, match=r"= 27 columns, got 64"):
        third_order(pattern, torch.zeros(16), torch.zeros(3))
    with pytest.raises(ValueError, match="num_parameters=16 values, got 15"):
        third_order(pattern, torch.zeros(15), torch.zeros(2, 2))


# the layer with softmax


@pytest.mark.parametrize("bias", [True, False])
def test_the_initial_parameters_are_those_of_torch(bias):
    torch.manual_seed(0)
    native = torch.nn.MultiheadAttention(8, 2, bias=bias)
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, bias=bias, batch_first=True)
    assert list(native.state_dict()) == list(layer.state_dict())
    for name, value in native.state_dict().items():
        assert torch.equal(value, layer.state_dict()[name]), name


@softmax_or_linear
@pytest.mark.parametrize("bias", [True, False])
def test_state_dicts_load_both_ways(bias, softmax):
    native = torch.nn.MultiheadAttention(6, 3, bias=bias)
    layer = SelfAttention(6, 3, bias=bias, softmax=softmax, batch_first=True)
    native.load_state_dict(layer.state_dict())
    layer.load_state_dict(native.state_dict())
    for a, b in zip(native.parameters(), layer.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(5, 8), (1, 1, 8), (3, 7, 8), (2, 210, 8)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@each_mask
def test_outputs_and_gradients_are_those_of_torch(mask, bias, shape):
    native, layer = pair(mask, bias=bias)
    torch.manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(shape, dtype=torch.float64)
    right = native(x, x, x, attn_mask=hidden(shape[-2], **mask), need_weights=False)[0]
    results = []
    for y, module in ((right, native), (layer(x), layer)):
        results.append((y, *torch.autograd.grad(y, [x, *module.parameters()], grad)))
    for right, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_any_size_agrees_with_torch(batch, tokens, heads, head_dim, causal):
    native, layer = pair({"causal": causal}, heads * head_dim, heads)
    x = torch.randn(batch, tokens, heads * head_dim, dtype=torch.float64)
    right = native(x, x, x, attn_mask=hidden(tokens, causal))[0]
    torch.testing.assert_close(layer(x), right, rtol=1e-10, atol=1e-10)


@each_mask
def test_the_attention_matrix_is_the_one_torch_reports(mask):
    native, layer = pair(mask)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    right = native(x, x, x, attn_mask=hidden(6, **mask), average_attn_weights=False)[1]
    matrix = layer.attention(x)
    torch.testing.assert_close(matrix, right, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))
    assert (matrix >= 0).all()
    assert not matrix[:, :, hidden(6, **mask)].any()
    torch.testing.assert_close(layer.attention(x[0]), matrix[0])


# the linear layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 5, 70, 300])
@each_mask
def test_linear_attention_is_its_definition(mask, tokens, bias):
    layer = linear_layer(6, 2, bias, **mask)
    x = torch.randn(tokens, 6, dtype=torch.float64, requires_grad=True)
    results = []
    for y in (layer(x), definition(layer, x)):
        results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])))
    for ours, right in zip(*results, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dim", "heads"), [(1, 1), (2, 1), (2, 2), (4, 2)])
@each_mask
def test_the_core_fills_the_third_order_pattern(mask, dim, heads):
    layer = linear_layer(dim, heads, **mask)
    x = torch.randn(4, dim, dtype=torch.float64)
    pattern = attention_pattern(4, dim, **mask)
    core = layer.core()
    assert core.shape == (dim,) * 4
    torch.testing.assert_close(
        third_order(pattern, core, x).view_as(x), layer(x), rtol=1e-12, atol=1e-12
    )


def test_gradients_reach_the_factors_through_the_core():
    layer = linear_layer(2, 2)
    x = torch.randn(3, 2, dtype=torch.float64)
    through_core = third_order(attention_pattern(3, 2), layer.core(), x).sum()
    weights = [layer.in_proj_weight, layer.out_proj.weight]
    both = [torch.autograd.grad(y, weights) for y in (through_core, layer(x).sum())]
    for ours, right in zip(*both, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


def test_linear_attention_is_cubic_and_softmax_attention_is_not():
    x = torch.randn(4, 6, dtype=torch.float64)
    linear, softmax = linear_layer(6, 2), pair({}, 6, 2, bias=False)[1]
    torch.testing.assert_close(linear(2 * x), 8 * linear(x), rtol=1e-12, atol=1e-12)
    assert (softmax(2 * x) - 8 * softmax(x)).abs().max() > 1e-2


def test_a_softmax_layer_has_no_core():
    with pytest.raises(TypeError, match="no fixed tensor represents it"):
        SelfAttention(4, 2, batch_first=True).core()


# both


@softmax_or_linear
@each_mask
def test_the_matrix_at_x_times_x_is_the_output(mask, softmax):
    torch.manual_seed(0)
    layer = SelfAttention(6, 2, softmax=softmax, **mask, dtype=torch.float64, batch_first=True)
    torch.nn.init.normal_(layer.in_proj_bias)
    torch.nn.init.normal_(layer.out_proj.bias)
    x = torch.randn(5, 6, dtype=torch.float64)
    matrix = layer.matrix(x)
    # biases of values and output pass through A and the output projection
    value_bias = layer.in_proj_bias[12:].view(2, 1, 3)
    passed = layer.attention(x).sum(-1)[..., None] * value_bias
    offset = layer.out_proj(passed.transpose(0, 1).flatten(1))
    torch.testing.assert_close(
        (matrix @ x.reshape(-1)).view(5, 6) + offset, layer(x), rtol=1e-12, atol=1e-12
    )
    assert matrix.pattern.nnz == int((~hidden(5, **mask)).sum()) * 36
    right = sum(
        torch.kron(a, layer.out_proj.weight[:, s] @ layer.in_proj_weight[12:][s])
        for a, s in zip(layer.attention(x), (slice(0, 3), slice(3, 6)), strict=True)
    )
    torch.testing.assert_close(matrix.to_dense(), right, rtol=1e-12, atol=1e-12)


@softmax_or_linear
def test_gradients_pass_through_the_matrix(softmax):
    torch.manual_seed(0)
    layer = SelfAttention(
        4, 2, bias=False, softmax=softmax, causal=True, dtype=torch.float64, batch_first=True
    )
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    both = [
        torch.autograd.grad(y.sin().sum(), leaves)
        for y in ((layer.matrix(x) @ x.reshape(-1)), layer(x))
    ]
    for ours, right in zip(*both, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@softmax_or_linear
def test_causal_attention_does_not_see_the_future(softmax):
    torch.manual_seed(0)
    layer = SelfAttention(4, 2, softmax=softmax, causal=True, batch_first=True)
    x = torch.randn(150, 4)
    changed = x.clone()
    changed[100:] += 1
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(before[:100], after[:100])
    assert not torch.allclose(before[100:], after[100:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [5, 200])
@softmax_or_linear
@each_mask
def test_error_follows_the_dtype(mask, softmax, tokens, dtype):
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, softmax=softmax, **mask, dtype=dtype, batch_first=True)
    x = torch.randn(2, tokens, 8).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    right = layer.double()(x.double())
    assert (y.double() - right).norm() <= 8 * torch.finfo(dtype).eps * right.norm()


@softmax_or_linear
@each_mask
def test_autocast_trains_float32_parameters(mask, softmax):
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, softmax=softmax, **mask, batch_first=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 200, 8))
    y.float().square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


def test_matrices_beyond_memory_are_refused():
    layer = SelfAttention(64, 2, batch_first=True)
    x = torch.zeros(1, 64).expand(1_000_000, 64)
    with pytest.raises(MemoryError, match=r"the attention matrices .* GiB"):
        layer.attention(x)
    with pytest.raises(MemoryError, match=r"the matrix of the attention .* GiB"):
        layer.matrix(x)
    with pytest.raises(MemoryError, match=r"the core .* GiB"):
        SelfAttention(1024, 2, softmax=False, batch_first=True).core()


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        pytest.param((0, 1), "embed_dim must be an integer of at least 1, got 0", id="embed_dim"),
        pytest.param((4, 0), "num_heads must be an integer of at least 1, got 0", id="num_heads"),
        pytest.param((4, 3), "divide embed_dim, got num_heads=3 and embed_dim=4", id="divides"),
        pytest.param((4, 2, 1.5), "dropout must lie in 0..1, got 1.5", id="dropout"),
    ],
)
def test_layers_that_cannot_be_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        SelfAttention(*arguments, batch_first=True)


@pytest.mark.parametrize("shape", [(4,), (3, 5), (1, 1, 3, 4), (0, 4), (2, 0, 4)], ids=str)
def test_inputs_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"d=4.*got"):
        SelfAttention(4, 2, batch_first=True)(torch.zeros(shape))


def test_only_one_sequence_has_a_matrix():
    with pytest.raises(ValueError, match=r"one sequence .* got \(2, 3, 4\)"):
        SelfAttention(4, 2, batch_first=True).matrix(torch.zeros(2, 3, 4))


def test_the_form_is_chosen_by_length_and_can_be_set():
    layer = SelfAttention(64, 2, batch_first=True)
    assert [layer.product(tokens).form for tokens in (64, 1000)] == ["square", "fused"]
    assert "T=1000, d=32" in repr(layer.product(1000))
    layer.form = "square"
    assert layer.product(1000).form == "square" and "as asked" in repr(layer.product(1000))
    assert "form='square'" in repr(layer)
    with pytest.raises(ValueError, match="'state' needs no softmax"):
        SelfAttention(4, 2, form="state", batch_first=True)


@each_mask
def test_the_square_never_calls_the_fused_kernel(mask, monkeypatch):
    native, layer = pair(mask)
    layer.form = "square"
    x = torch.randn(2, 210, 8, dtype=torch.float64)
    right = native(x, x, x, attn_mask=hidden(210, **mask), need_weights=False)[0]

    def refuse(*_, **__):
        raise AssertionError("the fused kernel was called")

    monkeypatch.setattr("sparsemat.products.attention.fused", refuse)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", refuse)
    with torch.profiler.profile() as record:
        y = layer(x)
    assert not [event.name for event in record.events() if "scaled_dot" in event.name]
    torch.testing.assert_close(y, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_a_padding_mask_is_that_of_torch(causal):
    native = torch.nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64)
    layer = SelfAttention(4, 2, causal=causal, dtype=torch.float64, batch_first=True)
    layer.load_state_dict(native.state_dict())
    words, x = torch.tensor([6, 1, 4]), torch.randn(3, 6, 4, dtype=torch.float64)

    def padding(n, head, i, j):
        return j < words[n]

    padded = torch.arange(6) >= words[:, None]
    later = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None
    y, matrices = native(
        x, x, x, key_padding_mask=padded, attn_mask=later, average_attn_weights=False
    )
    torch.testing.assert_close(layer(x, padding), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.attention(x, padding), matrices, rtol=1e-12, atol=1e-12)
    assert "mask=padding): fused, a mask that only a call" in repr(layer.product(6, padding))


NO_BOOLEANS = {
    "int64": (lambda n, head, i, j: 2 * (i >= j).long(), "got torch.int64"),
    "uint8": (lambda n, head, i, j: (i >= j).byte(), "got torch.uint8"),
    "float": (lambda n, head, i, j: (i >= j).float(), "got torch.float32"),
    "a number": (lambda n, head, i, j: 2, "got <class 'int'>"),
}


@pytest.mark.parametrize("mask, got", NO_BOOLEANS.values(), ids=NO_BOOLEANS)
@pytest.mark.parametrize("softmax", [True, False])
def test_a_mask_that_gives_no_booleans_is_refused(softmax, mask, got):
    layer = SelfAttention(4, 2, softmax=softmax)
    for call in (layer, layer.attention):
        with pytest.raises(ValueError, match=f"mask must give booleans .*{got}"):
            call(torch.randn(6, 4), mask)


def test_a_mask_may_be_one_boolean():
    layer, x = SelfAttention(4, 2), torch.randn(6, 4)
    torch.testing.assert_close(layer(x, lambda n, head, i, j: True), layer(x))


def test_repr_gives_the_arguments():
    text = "4, 2, bias=False, softmax=False, causal=True, window=3, batch_first=True"
    assert text in repr(
        SelfAttention(4, 2, bias=False, batch_first=True, softmax=False, causal=True, window=3)
    )


class Itself(torch.nn.MultiheadAttention):
    """torch's layer on one input, with a mask."""

    def __init__(self, *arguments, causal=False, window=None, **options):
        super().__init__(*arguments, batch_first=True, **options)
        self.causal, self.window = causal, window

    def forward(self, x):
        batched = x if x.ndim == 3 else x[None]
        mask = hidden(batched.shape[1], self.causal, self.window)
        y = super().forward(batched, batched, batched, attn_mask=mask, need_weights=False)[0]
        return y if x.ndim == 3 else y[0]


def contract_case(tokens, dim, heads, bias=True, **mask):
    def build(dtype):
        torch.manual_seed(0)
        reference = Itself(dim, heads, bias=bias, dtype=dtype, **mask)
        layer = SelfAttention(dim, heads, bias=bias, dtype=dtype, **mask, batch_first=True)
        layer.load_state_dict(reference.state_dict())
        return Case(layer, reference, (tokens, dim))

    return build


CONTRACT = {
    "one head": contract_case(4, 3, 1),
    "heads, no bias": contract_case(5, 4, 2, bias=False),
    "causal": contract_case(5, 4, 2, causal=True),
    "window": contract_case(6, 4, 2, window=1),
    "causal window": contract_case(6, 2, 1, causal=True, window=2),
}


class TestContract(LayerContract):
    cases = CONTRACT

    def matrix(self, layer, x):
        return layer.matrix(x)

    def test_the_matrix_is_the_jacobian_of_torch(self, build):
        """The matrix depends on the tokens, so its product is the layer's value, no derivative."""
        case = build(torch.float64)
        x = self.inputs(case)[0]
        zero = case.layer(torch.zeros_like(x))  # equal tokens: what the biases alone give
        y = (self.matrix(case.layer, x) @ x.reshape(-1)).view_as(x)
        assert_near(y + zero, case.reference(x))


USES = {
    "call": lambda layer, x: layer(x),
    "attention": lambda layer, x: layer.attention(x),
    "matrix": lambda layer, x: layer.matrix(x),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64], ids=str)
def test_tokens_of_another_type_are_refused(use, dtype):
    with pytest.raises(ValueError, match=rf"parameters' type torch\.float32, got {dtype}"):
        use(SelfAttention(4, 2), torch.ones(3, 4, dtype=dtype))
