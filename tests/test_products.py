"""Every product against a float64 dense truth and against the others, forward and backward."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pattern import dense, patterns
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import sparsemat as sm
from sparsemat import (
    Pattern,
    attention_pattern,
    avg_pool_pattern,
    conv_pattern,
    recurrence_patterns,
)
from sparsemat.products import GatherProduct, GeneralProduct, blocks, choose, matmul
from sparsemat.products import attention as attention_products
from sparsemat.products import recurrence as recurrence_products
from sparsemat.products.attention import attend, scores
from sparsemat.products.indices import narrowed
from sparsemat.products.recurrence import recurrence
from sparsemat.products.steps import StepBlocks, boxes


def random_pattern(rows, cols, nnz, parameters, seed=0):
    rng = np.random.default_rng(seed)
    row, col, index = (rng.integers(0, size, nnz) for size in (rows, cols, parameters))
    return Pattern((rows, cols), row, col, index, parameters)


def linear_pattern(rows, cols):
    row, col = np.indices((rows, cols)).reshape(2, -1)
    return Pattern((rows, cols), row, col, np.arange(rows * cols), rows * cols)


CONV = conv_pattern(2, 4, (4, 5), 3, padding=1)
SHUFFLE = np.random.default_rng(1).permutation(CONV.nnz)
CASES = {
    "tied convolution": CONV,
    "grouped strided convolution": conv_pattern(4, 6, 9, 3, stride=2, groups=2, dilation=2),
    "depthwise convolution": conv_pattern(3, 3, (4, 4), 2, groups=3),
    "circular, cells named four times": conv_pattern(
        1, 2, (2, 2), 3, padding=1, padding_mode="circular"
    ),
    "replicate, cells named twice": conv_pattern(1, 1, 4, 3, padding=1, padding_mode="replicate"),
    "untied convolution": CONV.untied(),
    "pooling": avg_pool_pattern(2, (4, 4), 2)[0],
    "padded pooling": avg_pool_pattern(2, (5, 5), 3, padding=1, count_include_pad=False)[0],
    "linear layer": linear_pattern(4, 6),
    "transposed convolution": CONV.T,
    "recurrence N": recurrence_patterns(3, 2, 3)[0],
    "recurrence B": recurrence_patterns(3, 2, 3)[1],
    "attention core": attention_pattern(2, 2, causal=True),
    "permutation": Pattern((5, 5), np.arange(5), [3, 1, 4, 0, 2], np.zeros(5, dtype=int), 1),
    "diagonal": Pattern((5, 5), np.arange(5), np.arange(5), np.arange(5), 5),
    "random": random_pattern(7, 9, 20, 6),
    "random, untied": random_pattern(7, 9, 20, 6).untied(),
    "one cell named often": Pattern((2, 2), [1] * 5, [0] * 5, [0, 0, 1, 2, 1], 3),
    "empty rows and columns": Pattern((6, 6), [1, 1, 4], [2, 4, 2], [0, 1, 0], 2),
    "parts of unequal width": Pattern((4, 1), [0, 0, 1, 2, 3], [0] * 5, [1, 1, 0, 1, 0], 2),
    "parameters unused": Pattern((2, 2), [0, 1], [1, 0], [1, 3], 6),
    "triples out of order": Pattern(
        CONV.shape, CONV.row[SHUFFLE], CONV.col[SHUFFLE], CONV.index[SHUFFLE], CONV.num_parameters
    ),
    "no triples": Pattern((3, 4), [], [], [], 2),
    "no rows": Pattern((0, 4), [], [], [], 0),
}
each_case = pytest.mark.parametrize("pattern", CASES.values(), ids=CASES)


def products(pattern):
    """Every product that can serve the pattern, by name."""
    general, other = GeneralProduct(pattern), GeneralProduct(pattern)
    other.takes_dense_blocks = not general.takes_dense_blocks
    found = {"general": general, "other gradient": other, "chosen": choose(pattern)}
    gather = GatherProduct.of(pattern)
    return found if gather is None else found | {"gather": gather}


def inputs(pattern, n=3, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    theta = torch.randn(pattern.num_parameters, dtype=dtype, requires_grad=True)
    x = torch.randn(pattern.shape[1], n, dtype=dtype, requires_grad=True)
    return theta, x


def expected(pattern, theta, x, grad):
    """Product and both gradients from the dense matrix, in float64."""
    theta, x, grad = (side.detach().double() for side in (theta, x, grad))
    matrix = torch.from_numpy(dense(pattern, theta.numpy()))
    grad_theta = torch.zeros_like(theta)
    outer = grad @ x.T
    for row, col, index in zip(pattern.row, pattern.col, pattern.index, strict=True):
        grad_theta[index] += outer[row, col]
    return matrix @ x, grad_theta, matrix.T @ grad


def assert_every_product_is_right(pattern, n):
    theta, x = inputs(pattern, n)
    grad = torch.randn(pattern.shape[0], n, dtype=torch.float64)
    assert_products_are_right(pattern, theta, x, grad)


def assert_products_are_right(pattern, theta, x, grad):
    truth = expected(pattern, theta, x, grad)
    for product in products(pattern).values():
        y = product(theta, x)
        found = y, *torch.autograd.grad(y, (theta, x), grad)
        for ours, right in zip(found, truth, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 5])
@each_case
def test_products_and_gradients_are_those_of_the_dense_matrix(pattern, n):
    assert_every_product_is_right(pattern, n)


@settings(max_examples=60)
@given(patterns(), st.integers(0, 4))
def test_products_agree_on_random_patterns(pattern, n):
    assert_every_product_is_right(pattern, n)


@each_case
def test_gradcheck(pattern):
    for product in products(pattern).values():
        assert torch.autograd.gradcheck(product, inputs(pattern, 2), fast_mode=True)


@each_case
@pytest.mark.parametrize("wanted", ["theta", "x"])
def test_one_gradient_alone(pattern, wanted):
    theta, x = inputs(pattern)
    grad = torch.randn(pattern.shape[0], 3, dtype=torch.float64)
    _, grad_theta, grad_x = expected(pattern, theta, x, grad)
    leaf, right = (theta, grad_theta) if wanted == "theta" else (x, grad_x)
    (x if wanted == "theta" else theta).requires_grad_(False)
    for product in products(pattern).values():
        (found,) = torch.autograd.grad(product(theta, x), leaf, grad)
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@each_case
def test_vectors_need_not_be_contiguous(pattern):
    theta, _ = inputs(pattern)
    wide = torch.randn(6, 2 * pattern.shape[1], dtype=torch.float64)
    x = wide[::2, ::2].T.requires_grad_()
    assert pattern.nnz == 0 or not x.is_contiguous()
    # torch hands a sum's gradient over as one expanded number
    grad = torch.ones(1, 1, dtype=torch.float64).expand(pattern.shape[0], 3)
    truth = expected(pattern, theta, x, grad)
    for product in products(pattern).values():
        y = product(theta, x)
        found = y, *torch.autograd.grad(y.sum(), (theta, x))
        for ours, right in zip(found, truth, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-12, atol=1e-12)


@each_case
def test_vectors_may_lie_within_others(pattern):
    theta, _ = inputs(pattern)
    rows, cols = pattern.shape
    x = torch.randn(cols + 2, 3, dtype=torch.float64)[1:-1].requires_grad_()
    grad = torch.randn(rows + 2, 3, dtype=torch.float64)[1:-1]
    assert_products_are_right(pattern, theta, x, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_case
def test_error_follows_the_dtype(pattern, dtype):
    theta, x = inputs(pattern, dtype=dtype)
    grad = torch.randn(pattern.shape[0], 3).to(dtype)
    truth = expected(pattern, theta, x, grad)
    bound = expected(pattern, theta.abs(), x.abs(), grad.abs())  # sum of magnitudes
    for product in products(pattern).values():
        y = product(theta, x)
        found = y, *torch.autograd.grad(y, (theta, x), grad)
        for ours, right, scale in zip(found, truth, bound, strict=True):
            assert ours.dtype == dtype
            error = (ours.double() - right).abs()
            assert (error <= 8 * torch.finfo(dtype).eps * scale + 1e-30).all(), repr(product)


@each_case
def test_results_are_repeatable(pattern):
    theta, x = inputs(pattern, dtype=torch.float32)
    grad = torch.randn(pattern.shape[0], 3)
    for product in products(pattern).values():
        runs = []
        for _ in range(3):
            y = product(theta, x)
            runs.append((y, *torch.autograd.grad(y, (theta, x), grad)))
        for again in runs[1:]:
            assert all(torch.equal(a, b) for a, b in zip(runs[0], again, strict=True))


@each_case
def test_inputs_are_left_as_they_were(pattern):
    theta, x = inputs(pattern)
    before = theta.detach().clone(), x.detach().clone()
    for product in products(pattern).values():
        product(theta, x).sum().backward()
    assert torch.equal(theta.detach(), before[0])
    assert torch.equal(x.detach(), before[1])


CHOICES = {
    "tied convolution": (CONV, GatherProduct, (1, 4, 18, 20)),
    "grouped convolution": (conv_pattern(4, 6, 9, 3, groups=2), GatherProduct, (2, 3, 6, 7)),
    "depthwise convolution": (
        conv_pattern(3, 3, (4, 4), 2, groups=3),
        GatherProduct,
        (3, 1, 4, 9),
    ),
    "untied convolution": (
        conv_pattern(2, 4, (4, 5), 3).untied(),
        GatherProduct,
        (6, 4, 18, 1),
    ),
    "pooling": (avg_pool_pattern(2, (4, 4), 2)[0], GatherProduct, (1, 1, 4, 8)),
    "linear layer": (linear_pattern(4, 6), GatherProduct, (1, 4, 6, 1)),
    "recurrence B": (recurrence_patterns(3, 2, 3)[1], GatherProduct, None),
    "random": (random_pattern(30, 40, 90, 90).untied(), GeneralProduct, None),
    "random, tied": (random_pattern(30, 40, 90, 20), GeneralProduct, None),
    "no triples": (Pattern((3, 4), [], [], [], 0), GeneralProduct, None),
}


@pytest.mark.parametrize(("pattern", "kind", "sizes"), CHOICES.values(), ids=CHOICES)
def test_the_product_is_chosen_by_structure(pattern, kind, sizes):
    product = choose(pattern)
    assert isinstance(product, kind), repr(product)
    if sizes is not None:
        assert product.sizes == sizes
    assert f"nnz={pattern.nnz}): " in repr(product)  # says what it is, then why


@pytest.mark.parametrize(
    ("pattern", "sizes"),
    [
        pytest.param(CONV, (1, 2, 36, 20), id="stride 1"),
        pytest.param(avg_pool_pattern(2, (4, 4), 2)[0], (1, 1, 1, 32), id="pooling"),
        pytest.param(conv_pattern(1, 2, 9, 3, stride=2), None, id="stride 2"),
        pytest.param(CONV.untied(), None, id="untied"),
    ],
)
def test_the_backward_pass_gathers_where_the_transposed_pattern_is_regular(pattern, sizes):
    transposed = choose(pattern).transposed
    assert (transposed and transposed.sizes) == sizes


@pytest.mark.parametrize("nnz", [1, 4, 5, 20])
def test_dense_blocks_give_the_gradient_from_an_eighth_of_the_cells_on(nnz):
    pattern = Pattern((4, 8), np.arange(nnz) // 8, np.arange(nnz) % 8, np.arange(nnz), nnz)
    assert GeneralProduct(pattern).takes_dense_blocks == (nnz > 4)


def test_indices_are_of_64_bits_where_they_must_be():
    for largest, dtype in ((8, np.int32), (2**31 - 1, np.int32), (2**31, np.int64)):
        arrays = narrowed({"row": np.array([0]), "col": np.array([largest])})
        assert {array.dtype for array in arrays.values()} == {np.dtype(dtype)}


def test_the_order_of_triples_does_not_change_the_choice():
    ordered, shuffled = CASES["tied convolution"], CASES["triples out of order"]
    assert choose(shuffled).sizes == choose(ordered).sizes


def test_a_pattern_is_examined_once():
    pattern = conv_pattern(1, 1, 5, 2)
    assert choose(pattern) is choose(pattern)
    assert choose(pattern.T) is choose(pattern.T)
    theta, x = inputs(pattern)
    torch.testing.assert_close(matmul(pattern, theta, x), choose(pattern)(theta, x))


def test_a_form_can_be_asked_for():
    assert choose(CONV, "general").shape == CONV.shape
    assert isinstance(choose(CONV, "general"), GeneralProduct)
    assert choose(CONV, "gather") is choose(CONV)
    with pytest.raises(ValueError, match="'gather' needs a regular pattern, got GeneralProduct"):
        choose(CASES["random"], "gather")
    with pytest.raises(ValueError, match=r"'general', 'native'\) or None, got 'csr'"):
        choose(CONV, "csr")


@pytest.mark.parametrize("pattern", [CONV, CASES["random"]], ids=["gather", "general"])
def test_operands_that_do_not_fit_are_refused(pattern):
    theta, x = inputs(pattern)
    with pytest.raises(ValueError, match=r"theta must have shape \(num_parameters,\)="):
        matmul(pattern, theta.repeat(2), x)
    with pytest.raises(ValueError, match=rf"x must have shape .* cols={pattern.shape[1]}, got"):
        matmul(pattern, theta, x[:-1])
    with pytest.raises(ValueError, match=r"one type, got torch\.float64 and torch\.float32"):
        matmul(pattern, theta, x.float())


@pytest.mark.parametrize("pattern", [CONV, CASES["random"]], ids=["gather", "general"])
def test_the_hessian_is_that_of_the_dense_product(pattern):
    theta, x = (side.detach() for side in inputs(pattern, n=2))

    def loss(theta):
        return matmul(pattern, theta, x).pow(2).sum()

    columns = torch.stack([matmul(pattern, e, x).flatten() for e in torch.eye(len(theta)).double()])
    torch.testing.assert_close(
        torch.autograd.functional.hessian(loss, theta),
        2 * columns @ columns.T,
        rtol=1e-11,
        atol=1e-11,
    )


SMALL = conv_pattern(1, 2, (2, 3), 2, padding=1)
EVERY_ORDER = {
    "gather": (SMALL, None),
    "general": (SMALL, "general"),
    "native": (SMALL, "native"),
    "stride 2": (conv_pattern(1, 2, 5, 3, stride=2, padding=1), None),
    "untied": (conv_pattern(1, 2, 4, 2).untied(), None),
    "random": (random_pattern(4, 5, 7, 3), None),
}
each_order = pytest.mark.parametrize(("pattern", "form"), EVERY_ORDER.values(), ids=EVERY_ORDER)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@each_order
def test_derivatives_of_every_order(pattern, form, dtype):
    """Reverse, forward, batched and second derivatives of the three maps, by finite differences."""
    product, (theta, x) = choose(pattern, form), inputs(pattern, 2, dtype)
    g = torch.randn(pattern.shape[0], 2, dtype=dtype, requires_grad=True)
    for function, sides in (
        (product, (theta, x)),
        (product.adjoint, (theta, g)),
        (product.outer, (g, x)),
    ):
        assert torch.autograd.gradcheck(
            function, sides, check_forward_ad=True, check_batched_grad=True
        )
        assert torch.autograd.gradgradcheck(function, sides, check_batched_grad=True)


@each_order
def test_the_plain_operations_are_the_fast_ones(pattern, form):
    product = choose(pattern, form)
    theta, x = (side.detach() for side in inputs(pattern))
    g = torch.randn(pattern.shape[0], 3, dtype=torch.float64)
    for kind, left, right in (("apply", theta, x), ("adjoint", theta, g), ("outer", g, x)):
        torch.testing.assert_close(
            product.plain(kind, left, right), product.numbers(kind, left, right)
        )


def test_no_table_is_of_another_mode():
    pattern = conv_pattern(1, 2, (5, 5), 3)
    for form in (None, "general"):
        product, (theta, x) = choose(pattern, form), inputs(pattern)
        with FakeTensorMode() as mode:
            fake = product(mode.from_tensor(theta), mode.from_tensor(x))
        assert isinstance(fake, FakeTensor) and fake.shape == (18, 3)
        assert type(product(theta, x)) is torch.Tensor


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half], ids=str)
def test_long_sums_are_not_lost_in_16_bits(dtype):
    """A tied parameter's gradient, a cell and a row of 4,000 ones are 4,000."""
    n = 4000
    tied = Pattern((n, n), np.arange(n), np.arange(n), np.zeros(n, dtype=int), 1)
    ones = torch.ones(n, 1, dtype=dtype)
    for form in (None, "general"):
        assert choose(tied, form).outer(ones, ones).item() == 4000
    row = Pattern((1, n), np.zeros(n, dtype=int), np.arange(n), np.arange(n), n)
    assert choose(row)(ones[:, 0], ones).item() == 4000
    assert choose(row.T, "general").adjoint(ones[:, 0], ones).item() == 4000


def test_blocks_are_large_where_launches_count(monkeypatch):
    pattern = conv_pattern(3, 32, (32, 32), 3, padding=1)
    x = torch.zeros(pattern.shape[1], 64)

    def launches():
        product = GatherProduct.of(pattern)
        return sum(len(run.blocks) for run in product.blocks.runs(x, product.blocks.layout(x)))

    monkeypatch.setitem(blocks.CORE_BYTES, "cpu", 1 << 14)
    assert launches() > 5
    monkeypatch.delitem(blocks.CORE_BYTES, "cpu")
    assert launches() == 1


STEPS = {
    "padded": conv_pattern(3, 4, (5, 6), 3, padding=1),
    "strided groups": conv_pattern(4, 6, (7, 6), 3, padding=1, stride=2, groups=2),
    "depthwise, dilated": conv_pattern(3, 3, (9, 8), 3, padding=2, dilation=2, groups=3),
    "one tap": conv_pattern(3, 5, (4, 4), 1),
    "one tap, strided": conv_pattern(3, 5, (5, 4), 1, stride=2),
    "3-D": conv_pattern(2, 3, (3, 4, 5), (1, 2, 3), padding=(0, 1, 1)),
    "transposed": conv_pattern(3, 2, (6, 8), 3, padding=1).T,
    "averages": sm.avg_pool_pattern(2, (6, 6), 2)[0],
}


@pytest.mark.parametrize("size", [64, 1 << 20], ids=["many blocks", "few blocks"])
@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "features first"])
@pytest.mark.parametrize("pattern", STEPS.values(), ids=STEPS)
def test_regular_steps_read_views_in_the_layout_of_the_vectors(
    pattern, batch_first, size, monkeypatch
):
    monkeypatch.setitem(blocks.CORE_BYTES, "cpu", size)
    product = GatherProduct.of(pattern)
    assert isinstance(product.blocks, StepBlocks)
    torch.manual_seed(0)
    theta = torch.randn(pattern.num_parameters, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, pattern.shape[1], dtype=torch.float64).t()
    x = (x if batch_first else x.contiguous()).requires_grad_()
    grad = torch.randn(pattern.shape[0], 5, dtype=torch.float64)
    y = product(theta, x)
    assert (y.stride(0) == 1) == batch_first
    results = [[y, *torch.autograd.grad(y, (theta, x), grad)]]
    assert results[0][2].stride() == x.stride()
    expected = choose(pattern, "general")(theta, x)
    results.append([expected, *torch.autograd.grad(expected, (theta, x), grad)])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        product.adjoint(theta, grad), choose(pattern, "general").adjoint(theta, grad)
    )


IRREGULAR = {
    "reflected": conv_pattern(2, 3, (5, 5), 3, padding=1, padding_mode="reflect"),
    "untied": conv_pattern(2, 3, (5, 5), 3, padding=1).untied(),
}


@pytest.mark.parametrize("pattern", IRREGULAR.values(), ids=IRREGULAR)
def test_other_tables_are_gathered_by_an_index(pattern):
    assert isinstance(choose(pattern).blocks, blocks.IndexBlocks)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 40))
def test_boxes_are_runs_of_a_grid(sizes, most):
    places = np.arange(np.prod(sizes)).reshape(sizes)
    found = [
        places[tuple(slice(a, a + n) for a, n in zip(first, lengths, strict=True))].reshape(-1)
        for first, lengths in boxes(sizes, most)
    ]
    assert max(map(len, found)) <= 2 * most
    assert np.array_equal(np.concatenate(found), places.reshape(-1))


def test_block_rows_with_one_support_and_permuted_rows_are_regular():
    """A block-sparse matrix whose block rows share a support, and the factor of a butterfly."""
    mask = np.kron([[1, 0, 1], [1, 0, 1], [0, 1, 1], [1, 0, 1]], np.ones((2, 2))) > 0
    block_sparse = sm.mask_pattern(mask)
    half = np.arange(8) ^ 2
    row = np.repeat(np.arange(8), 2)
    butterfly = Pattern((8, 8), row, np.stack([np.arange(8), half], 1).reshape(-1), range(16), 16)
    for pattern in (block_sparse, butterfly):
        assert isinstance(choose(pattern), GatherProduct)
        assert_every_product_is_right(pattern, 3)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_dilation_near_the_size_of_the_map_keeps_its_tables(tied):
    """Most taps of most positions fall outside: 24 slots for 16 entries along each axis."""
    pattern = conv_pattern(2, 64, (8, 8), 3, padding=4, dilation=4)
    pattern = pattern if tied else pattern.untied()
    product = choose(pattern)
    assert isinstance(product, GatherProduct)
    assert not {"row", "col", "index"} & vars(pattern).keys()  # no triple was written out
    theta = torch.randn(pattern.num_parameters, dtype=torch.float64, requires_grad=True)
    x = torch.randn(pattern.shape[1], 3, dtype=torch.float64, requires_grad=True)
    results = []
    for other in (product, choose(pattern, "general")):
        y = other(theta, x)
        results.append([y, *torch.autograd.grad(y.sin().sum(), (theta, x))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_single_output_that_reads_mostly_nothing_is_summed_by_itself():
    pattern = conv_pattern(8, 1, (8, 8), 3, padding=4, dilation=4)
    assert isinstance(choose(pattern), GeneralProduct)
    assert not {"row", "col", "index"} & vars(pattern).keys()


def test_tables_of_few_widths_are_kept():
    pattern = conv_pattern(64, 64, (9, 9), 3)
    product = choose(pattern)
    theta = torch.randn(pattern.num_parameters)
    for n in range(1, 60):
        x = torch.randn(pattern.shape[1], n)
        product(theta, x)
    assert len(product.blocks._runs) <= 16
    torch.testing.assert_close(product(theta, x[:, :1]), product(theta, x)[:, :1])


# recurrences


def by_substitution(inputs, weight, initial, activation):
    f = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda a: a}[activation]
    matrix, states = weight.diag() if weight.ndim == 1 else weight, [initial]
    for t in range(len(inputs)):
        states.append(f(states[-1] @ matrix.T + inputs[t]))
    return torch.stack(states[1:])


def recurrent_inputs(steps, n=2, h=3, diagonal=False, dtype=torch.float64):
    torch.manual_seed(steps)
    shapes = (steps, n, h), (h,) if diagonal else (h, h), (n, h)
    u, weight, initial = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    weight *= 0.9 / (weight.abs().max() if diagonal else torch.linalg.matrix_norm(weight, 2))
    return [side.to(dtype).requires_grad_() for side in (u, weight, initial)]


each_recurrence = pytest.mark.parametrize("activation", ["tanh", "relu", "linear"])
full_and_diagonal = pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])


def recurrent_forms(activation):
    """Every form that can serve the activation, and the choice."""
    return [None, "steps", *(["chunks"] if activation == "linear" else [])]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 33, 130])
@full_and_diagonal
@each_recurrence
def test_recurrence_is_the_substitution_in_every_form(activation, diagonal, steps):
    arguments = recurrent_inputs(steps, diagonal=diagonal)
    grad = torch.randn(steps, 2, 3, dtype=torch.float64)
    states = by_substitution(*arguments, activation)
    truth = states, *torch.autograd.grad(states, arguments, grad)
    for form in recurrent_forms(activation):
        states = recurrence(*arguments, activation, form)
        found = states, *torch.autograd.grad(states, arguments, grad)
        for ours, right in zip(found, truth, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)


@full_and_diagonal
@each_recurrence
def test_gradcheck_of_the_recurrence(activation, diagonal):
    arguments = recurrent_inputs(5, diagonal=diagonal)
    for form in recurrent_forms(activation):
        assert torch.autograd.gradcheck(
            lambda *sides, form=form: recurrence(*sides, activation, form), arguments
        )


@full_and_diagonal
def test_the_linear_recurrence_is_the_block_bidiagonal_system(diagonal):
    u, weight, _ = (side.detach() for side in recurrent_inputs(6, n=1, diagonal=diagonal))
    operator, _ = recurrence_patterns(6, 1, 3)
    matrix = weight.diag() if diagonal else weight
    system = torch.eye(18, dtype=torch.float64) - operator.fill(matrix).to_dense()
    expected = torch.linalg.solve(system, u.reshape(-1))
    torch.testing.assert_close(recurrence(u, weight).reshape(-1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [20, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@full_and_diagonal
@each_recurrence
def test_error_of_the_recurrence_follows_the_dtype(activation, diagonal, dtype, steps):
    arguments = recurrent_inputs(steps, diagonal=diagonal, dtype=dtype)
    states = recurrence(*arguments, activation)
    wide = [side.detach().double().requires_grad_() for side in arguments]
    right = by_substitution(*wide, activation)
    grads = torch.autograd.grad(states.sum(), arguments)
    expected = torch.autograd.grad(right.sum(), wide)
    tolerance = 40 * torch.finfo(dtype).eps
    for ours, exact in zip((states, *grads), (right, *expected), strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - exact).norm() <= tolerance * exact.norm()


def test_the_recurrence_follows_autocast():
    arguments = recurrent_inputs(4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        states = recurrence(*arguments, "tanh")
    assert states.dtype == torch.bfloat16
    grads = torch.autograd.grad(states.sum(), arguments)
    assert all(grad.dtype == torch.float32 for grad in grads)


def test_autocast_leaves_a_recurrence_in_double_precision_alone():
    arguments = recurrent_inputs(4)
    with torch.autocast("cpu", torch.bfloat16):
        states = recurrence(*arguments, "tanh")
        assert (arguments[0][0] @ arguments[1]).dtype == torch.float64  # as torch does
    assert states.dtype == torch.float64
    right = by_substitution(*arguments, "tanh")
    torch.testing.assert_close(states, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["batch first", "expanded"])
def test_inputs_of_the_recurrence_need_not_be_contiguous(layout):
    u, weight, initial = (side.detach() for side in recurrent_inputs(40))
    if layout == "batch first":
        view = u.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    else:
        view = u[:1].expand(40, 2, 3).requires_grad_()
    assert not view.is_contiguous()
    for activation in ("linear", "tanh"):
        states = recurrence(view, weight, initial, activation)
        right = by_substitution(view, weight, initial, activation)
        torch.testing.assert_close(states, right, rtol=1e-12, atol=1e-12)
        ours, exact = (torch.autograd.grad(side.sum(), view)[0] for side in (states, right))
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


@full_and_diagonal
@each_recurrence
def test_an_empty_batch_has_no_states(activation, diagonal):
    arguments = recurrent_inputs(40, n=0, diagonal=diagonal)
    states = recurrence(*arguments, activation)
    assert states.shape == (40, 0, 3)
    grads = torch.autograd.grad(states.sum(), arguments)
    assert all(not grad.any() for grad in grads)


@pytest.mark.parametrize(
    ("sizes", "activation", "device", "expected"),
    [
        pytest.param((168, 1, 64), "linear", "cpu", "chunks", id="small steps"),
        pytest.param((168, 64, 64), "linear", "cpu", "steps", id="large steps"),
        pytest.param((168, 64, 64), "linear", "cuda", "chunks", id="large steps on a GPU"),
        pytest.param((20, 1, 64), "linear", "cpu", "steps", id="few steps"),
        pytest.param((168, 1, 64), "tanh", "cuda", "steps", id="tanh"),
        pytest.param((168, 1, 64), "relu", "cpu", "steps", id="relu"),
    ],
)
def test_the_form_of_the_recurrence_follows_the_sizes(sizes, activation, device, expected):
    product = recurrence_products.choose(*sizes, activation, device)
    assert product.form == expected
    start = f"RecurrenceProduct(T={sizes[0]}, {activation}): {expected}, "
    assert repr(product).startswith(start) and len(repr(product)) > len(start)  # and why


@pytest.mark.parametrize(
    ("form", "rule"),
    [
        pytest.param("chunks", "'chunks' needs the activation 'linear', got 'tanh'", id="tanh"),
        pytest.param("newton", r"one of \('steps', 'chunks'\) or None, got 'newton'", id="name"),
    ],
)
def test_forms_that_a_recurrence_has_not_are_refused(form, rule):
    with pytest.raises(ValueError, match=rule):
        recurrence(*recurrent_inputs(4), "tanh", form)


@pytest.mark.parametrize(
    ("shapes", "activation", "rule"),
    [
        pytest.param([(3, 2, 4), (4, 4)], "gelu", r"activation must be one of .*'gelu'", id="f"),
        pytest.param([(0, 2, 4), (4, 4)], "tanh", r"T >= 1, got \(0, 2, 4\)", id="no step"),
        pytest.param([(3, 4), (4, 4)], "tanh", r"\(T, n, h\).*got \(3, 4\)", id="rank"),
        pytest.param([(3, 2, 4), (4, 3)], "tanh", r"h=4, got \(4, 3\)", id="weight"),
        pytest.param([(3, 2, 4), (3,)], "tanh", r"h=4, got \(3,\)", id="diagonal"),
        pytest.param([(3, 2, 4), (4, 4), (1, 4)], "tanh", r"\(2, 4\), got \(1, 4\)", id="initial"),
    ],
)
def test_recurrences_that_do_not_fit_are_refused(shapes, activation, rule):
    sides = [torch.zeros(shape) for shape in shapes]
    initial = sides[2] if len(sides) == 3 else None
    with pytest.raises(ValueError, match=rule):
        recurrence(sides[0], sides[1], initial, activation)


# attention

MASKS = {
    "full": {},
    "causal": {"causal": True},
    "window 0": {"window": 0},
    "window 5": {"window": 5},
    "window 40": {"window": 40},
    "causal window 3": {"causal": True, "window": 3},
    "causal window 70": {"causal": True, "window": 70},
    "window beyond the end": {"window": 500},
}


def heads(tokens, dim=4, dtype=torch.float64):
    torch.manual_seed(tokens)
    return [torch.randn(2, 3, tokens, dim, dtype=dtype, requires_grad=True) for _ in range(3)]


def brute_scores(q, k, softmax, causal=False, window=None, mask=None):
    seen = torch.zeros(*q.shape[:-1], q.shape[-2], dtype=torch.bool)
    tokens = q.shape[-2]
    at = np.arange(tokens)
    pairs = np.ones((tokens, tokens), dtype=bool)
    if causal:
        pairs &= at[None] <= at[:, None]
    if window is not None:
        pairs &= np.abs(at[:, None] - at[None]) <= window
    seen[:] = torch.from_numpy(pairs)
    if mask is not None:
        for n, head, i, j in np.ndindex(seen.shape):
            seen[n, head, i, j] &= bool(mask(n, head, i, j))
    products = torch.einsum("...ik,...jk->...ij", q, k) / q.shape[-1] ** 0.5
    if not softmax:
        return products * seen
    weights = products.exp() * seen
    return weights / weights.sum(-1, keepdim=True)


def attention_forms(softmax, causal=False, window=None):
    """Every form that can serve the mask, and the choice."""
    forms = [None, "square", *(["fused"] if softmax else []), *(["band"] if window else [])]
    if not softmax and window is None:
        forms.append("chunks" if causal else "state")
    return forms


@pytest.mark.parametrize("tokens", [1, 3, 64, 65, 200])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
def test_attention_is_its_definition_in_every_form(softmax, mask, tokens):
    q, k, v = heads(tokens)
    matrix = brute_scores(q, k, softmax, **mask)
    explicit = scores(q, k, softmax=softmax, **mask)
    torch.testing.assert_close(explicit, matrix, rtol=1e-12, atol=1e-12)
    grad = torch.randn(v.shape, dtype=v.dtype)
    y = matrix @ v
    truth = y, *torch.autograd.grad(y, (q, k, v), grad)
    for form in attention_forms(softmax, **mask):
        y = attend(q, k, v, softmax=softmax, **mask, form=form)
        found = y, *torch.autograd.grad(y, (q, k, v), grad)
        for ours, right in zip(found, truth, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
def test_gradcheck_of_attention(softmax, mask):
    arguments = [side.detach()[:1, :1].requires_grad_() for side in heads(7, dim=2)]
    for form in attention_forms(softmax, **mask):
        assert torch.autograd.gradcheck(
            lambda *sides, form=form: attend(*sides, softmax=softmax, **mask, form=form), arguments
        )


WORDS = torch.tensor([9, 4])  # of two texts
TEXTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 1, 1, 1, 1, 2]])  # packed
DATA_MASKS = {
    "padding": lambda n, head, i, j: j < WORDS[n],
    "packed texts": lambda n, head, i, j: TEXTS[n, i] == TEXTS[n, j],
    "every head its stride": lambda n, head, i, j: (i - j) % (head + 1) == 0,
}
each_data_mask = pytest.mark.parametrize("mask", DATA_MASKS.values(), ids=DATA_MASKS)


@pytest.mark.parametrize("fixed", [{}, {"causal": True}, {"window": 2}], ids=str)
@each_data_mask
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
def test_masks_may_look_at_data(softmax, mask, fixed):
    # with a window the padded texts would leave tokens that see nothing
    mask = DATA_MASKS["packed texts"] if fixed.get("window") else mask
    q, k, v = heads(9)
    matrix = brute_scores(q, k, softmax, **fixed, mask=mask)
    found = scores(q, k, softmax=softmax, **fixed, mask=mask)
    torch.testing.assert_close(found, matrix, rtol=1e-12, atol=1e-12)
    y, grad = matrix @ v, torch.randn(v.shape, dtype=v.dtype)
    truth = y, *torch.autograd.grad(y, (q, k, v), grad)
    for form in (None, "square", *(["fused"] if softmax else [])):
        y = attend(q, k, v, softmax=softmax, **fixed, mask=mask, form=form)
        found = y, *torch.autograd.grad(y, (q, k, v), grad)
        for ours, right in zip(found, truth, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


def test_a_mask_may_look_at_the_texts_where_there_is_no_batch():
    q, k, v = (side[0].detach() for side in heads(9))
    for form in ("square", "fused"):
        one = attend(q, k, v, mask=DATA_MASKS["padding"], form=form)
        many = attend(q[None], k[None], v[None], mask=DATA_MASKS["padding"], form=form)
        torch.testing.assert_close(one, many[0])
    with pytest.raises(ValueError, match=r"q must be .*heads, T, d_k.*, got \(9, 4\)"):
        attend(q[0], k[0], v[0], mask=DATA_MASKS["padding"])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("fixed", [{}, {"causal": True}, {"window": 2}], ids=str)
def test_flex_attention_sees_what_the_square_sees(fixed):
    q, k, v = (side.detach().float() for side in heads(9))
    for mask in (None, *([] if fixed else DATA_MASKS.values())):
        rules = {**fixed, "mask": mask}
        y = attend(q, k, v, **rules, form="flex")
        torch.testing.assert_close(y, attend(q, k, v, **rules, form="square"))
        one = attend(q[0], k[0], v[0], **rules, form="flex")
        torch.testing.assert_close(one, y[0])


def test_flex_attention_has_no_gradients_on_a_cpu():
    with pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        attend(*heads(9), form="flex")


NO_FORM = {
    "a name": ({"form": "dense"}, "one of .* or None, got 'dense'"),
    "fused": ({"form": "fused", "softmax": False}, "'fused' needs a softmax, got softmax=False"),
    "state": ({"form": "state"}, "'state' needs no softmax and no mask, got softmax=True"),
    "causal state": ({"form": "state", "softmax": False, "causal": True}, "got .* causal=True"),
    "chunks": ({"form": "chunks", "softmax": False}, "a causal mask alone, .* causal=False"),
    "windowed": (
        {"form": "chunks", "softmax": False, "causal": True, "window": 3},
        "'chunks' needs a causal mask alone, no softmax, got .* window=3",
    ),
    "band": ({"form": "band"}, "'band' needs a window and no other mask, got .* window=None"),
    "flex": ({"form": "flex", "softmax": False}, "'flex' needs a softmax, got softmax=False"),
    "band of data": (
        {"form": "band", "window": 3, "mask": DATA_MASKS["padding"]},
        "'band' needs a window and no other mask, got .* window=3 and a mask",
    ),
    "state of data": (
        {"form": "state", "softmax": False, "mask": DATA_MASKS["padding"]},
        "'state' needs no softmax and no mask, got .* and a mask",
    ),
}


@pytest.mark.parametrize(("options", "rule"), NO_FORM.values(), ids=NO_FORM)
def test_forms_that_attention_has_not_are_refused(options, rule):
    with pytest.raises(ValueError, match=rule):
        attend(*heads(5), **options)


@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
def test_keys_and_values_are_of_the_shape_of_the_queries(softmax):
    q, k, v = heads(9)
    with pytest.raises(ValueError, match=r"k must have the shape of q .*9, 4\), got .*8, 4\)"):
        attend(q, k[..., :8, :], v, softmax=softmax)
    with pytest.raises(ValueError, match="v must have the shape of q"):
        attend(q, k, v[..., :3], softmax=softmax)
    with pytest.raises(ValueError, match="window must be at least 0, got -1"):
        attend(q, k, v, softmax=softmax, window=-1)


def test_a_window_beyond_the_text_is_the_whole_text():
    q, k, v = heads(9)
    torch.testing.assert_close(attend(q, k, v, window=10**9, form="band"), attend(q, k, v))


def test_no_text_has_no_attention():
    q = torch.zeros(0, 2, 9, 4)
    assert attend(q, q, q, form="flex").shape == q.shape


def test_a_mask_without_a_name_is_shown():
    mask = partial(lambda n, head, i, j: j <= i)
    assert "mask=functools.partial" in repr(
        attention_products.choose(5, 4, softmax=True, mask=mask)
    )


def test_a_product_of_attention_serves_its_length_only():
    product = attention_products.choose(5, 4, softmax=False, window=9)
    with pytest.raises(ValueError, match=r"q must be \(..., 5, 4\), got \(2, 3, 50, 4\)"):
        product(*heads(50))


@pytest.mark.parametrize(
    ("tokens", "dim", "softmax", "mask", "expected"),
    [
        pytest.param(1000, 16, True, {}, "fused", id="softmax"),
        pytest.param(64, 32, True, {}, "square", id="short softmax"),
        pytest.param(64, 32, True, {"causal": True}, "square", id="short causal softmax"),
        pytest.param(64, 16, True, {}, "fused", id="short softmax of few features"),
        pytest.param(8, 32, True, {}, "fused", id="very short softmax"),
        pytest.param(1000, 16, True, {"causal": True}, "fused", id="causal softmax"),
        pytest.param(1000, 16, True, {"window": 4}, "band", id="softmax in a window"),
        pytest.param(1000, 16, False, {"window": 4}, "band", id="linear in a window"),
        pytest.param(1000, 16, True, {"window": 600}, "fused", id="a wide window"),
        pytest.param(1000, 16, False, {"window": 600}, "square", id="a wide window, linear"),
        pytest.param(1000, 16, False, {}, "state", id="more tokens than features"),
        pytest.param(8, 16, False, {}, "square", id="fewer tokens than features"),
        pytest.param(1000, 16, False, {"causal": True}, "chunks", id="causal linear"),
        pytest.param(20, 16, False, {"causal": True}, "square", id="short causal linear"),
        pytest.param(1000, 16, False, {"window": 999}, "state", id="a window of everything"),
    ],
)
def test_the_form_of_attention_follows_the_sizes(tokens, dim, softmax, mask, expected):
    product = attention_products.choose(tokens, dim, softmax=softmax, **mask)
    assert product.form == expected
    assert repr(product).startswith(f"AttentionProduct(T={tokens}, d={dim}, softmax={softmax}, ")
    says, _, why = repr(product).partition("): ")[2].partition(", ")
    assert says == expected and why


def test_a_gpu_keeps_the_fused_softmax():
    product = attention_products.choose(64, 32, softmax=True, device="cuda")
    assert product.form == "fused" and "on cuda" in repr(product)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("softmax", [True, False], ids=["softmax", "linear"])
def test_error_of_attention_follows_the_dtype(softmax, mask):
    q, k, v = (side.detach().bfloat16() for side in heads(150))
    y = attend(q, k, v, softmax=softmax, **mask)
    right = brute_scores(q.double(), k.double(), softmax, **mask) @ v.double()
    assert y.dtype == torch.bfloat16
    assert (y.double() - right).norm() <= 4 * torch.finfo(torch.bfloat16).eps * right.norm()
