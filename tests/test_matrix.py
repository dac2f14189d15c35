"""Filled patterns against scipy.sparse and dense linear algebra."""

import resource

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_pattern import patterns

from sparsemat import (
    Pattern,
    SparseMatrix,
    attention_pattern,
    conv_pattern,
    recurrence_patterns,
    to_matrix,
)
from sparsemat.algebra import require_memory

CIRCULAR = conv_pattern(1, 1, (2, 2), 3, padding=1, padding_mode="circular")
CASES = {
    "tied convolution": conv_pattern(2, 2, (2, 3), 2, padding=1),
    "untied convolution": conv_pattern(2, 2, (2, 3), 2, padding=1).untied(),
    "cells named four times": CIRCULAR,
    "recurrence": recurrence_patterns(4, 2, 3)[0],
    "attention core": attention_pattern(2, 2),
    "empty row and column": Pattern((3, 4), [0, 2, 2], [1, 0, 1], [0, 1, 0], 3),
    "no triples": Pattern((2, 3), [], [], [], 2),
}
each_case = pytest.mark.parametrize("pattern", CASES.values(), ids=CASES)


def filled(pattern, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return pattern.fill(torch.randn(pattern.num_parameters, dtype=dtype))


def truth(matrix):
    """The dense matrix from scipy, which sums duplicates of coordinates."""
    pattern = matrix.pattern
    values = matrix.theta.detach().numpy()[pattern.index]
    return scipy.sparse.coo_array((values, (pattern.row, pattern.col)), pattern.shape).toarray()


@each_case
def test_every_form_is_the_same_matrix(pattern):
    matrix = filled(pattern)
    expected = truth(matrix)
    forms = {
        "dense": matrix.to_dense(),
        "csr": matrix.to_csr().to_dense(),
        "scipy": torch.from_numpy(matrix.to_scipy().toarray()),
        "coalesced": matrix.coalesce().to_dense(),
        "transposed": matrix.T.to_dense().T,
    }
    for form in forms.values():
        np.testing.assert_allclose(form.numpy(), expected, rtol=1e-12, atol=1e-12)


@each_case
def test_storage_is_canonical(pattern):
    matrix = filled(pattern)
    coalesced = matrix.coalesce()
    assert coalesced.pattern.equals(pattern.distinct())
    csr, ours = matrix.to_scipy(), matrix.to_csr()
    csr.sort_indices()
    np.testing.assert_array_equal(ours.crow_indices(), csr.indptr)
    np.testing.assert_array_equal(ours.col_indices(), csr.indices)
    np.testing.assert_array_equal(matrix.values, matrix.theta.numpy()[pattern.index])


@given(patterns(), st.integers(0, 3))
def test_products_agree_with_scipy(pattern, n):
    matrix = filled(pattern)
    x = torch.randn(pattern.shape[1], n, dtype=torch.float64)
    expected = matrix.to_scipy() @ x.numpy()
    np.testing.assert_allclose((matrix @ x).numpy(), expected, rtol=1e-12, atol=1e-12)
    v = torch.randn(pattern.shape[1], dtype=torch.float64)
    expected = matrix.to_scipy() @ v.numpy()
    np.testing.assert_allclose((matrix @ v).numpy(), expected, rtol=1e-12, atol=1e-12)


@given(st.data())
def test_the_product_of_two_matrices_agrees_with_scipy(data):
    inner = data.draw(st.integers(1, 5))
    left = filled(data.draw(patterns(cols=inner)), 0)
    right = filled(data.draw(patterns(rows=inner)), 1)
    product = left @ right
    expected = (left.to_scipy() @ right.to_scipy()).toarray()
    np.testing.assert_allclose(product.to_dense().numpy(), expected, rtol=1e-12, atol=1e-12)
    # a monomial factor is absorbed, so that the other keeps its tying
    assert product.pattern.distinct().equals(left.pattern @ right.pattern)


DIFFERENTIABLE = {
    "to_dense": lambda matrix, x: matrix.to_dense() @ x,
    "to_csr": lambda matrix, x: matrix.to_csr().values(),
    "coalesce": lambda matrix, x: matrix.coalesce().values,
    "values": lambda matrix, x: matrix.values,
    "T": lambda matrix, x: matrix.T.to_dense(),
    "W @ x": lambda matrix, x: matrix @ x,
    "W @ v": lambda matrix, x: matrix @ x[:, 0],
    "W @ W.T": lambda matrix, x: (matrix @ matrix.T).to_dense(),
}


@each_case
@pytest.mark.parametrize("form", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE)
def test_gradients_reach_theta(pattern, form):
    theta = torch.randn(pattern.num_parameters, dtype=torch.float64, requires_grad=True)
    x = torch.randn(pattern.shape[1], 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda theta, x: form(pattern.fill(theta), x) + 0 * x.sum(), (theta, x)
    )


def test_theta_may_have_any_shape_and_is_shared():
    pattern = conv_pattern(2, 3, (4, 4), 3)
    weight = torch.nn.Parameter(torch.randn(3, 2, 3, 3))
    matrix = pattern.fill(weight)
    assert matrix.theta.data_ptr() == weight.data_ptr()
    matrix.to_dense().sum().backward()
    assert weight.grad.shape == weight.shape
    # every tap is read at each of the 2 x 2 positions
    torch.testing.assert_close(weight.grad, torch.full_like(weight, 4))


def test_theta_is_read_at_each_use_wherever_its_data_lie():
    weight = torch.nn.Parameter(torch.randn(3, 2, 3, 3))
    with torch.no_grad():
        matrix = conv_pattern(2, 3, (4, 4), 3).fill(weight)
    weight.data = torch.ones(3, 2, 3, 3, dtype=torch.float64)
    x = torch.ones(32, dtype=torch.float64)
    assert matrix.dtype == torch.float64
    y = matrix @ x
    assert y.tolist() == [18] * 12
    y.sum().backward()
    assert torch.equal(weight.grad, torch.full_like(weight, 4))


def of_module(module, *shape):
    return lambda matrix, x: to_matrix(module, shape, device="cpu")[0].to_dense()


HERE = {
    "product": lambda matrix, x: matrix @ x,
    "dense": lambda matrix, x: matrix.to_dense(),
    "coalesced": lambda matrix, x: matrix.coalesce().theta,
    "compressed rows": lambda matrix, x: matrix.to_csr().to_dense(),
    "coordinates": lambda matrix, x: matrix.to_coo().to_dense(),
    "of two": lambda matrix, x: (matrix.T @ matrix).to_dense(),
    "operator": lambda matrix, x: torch.from_numpy(matrix.linear_operator() @ x.numpy()),
    "interpolation": of_module(torch.nn.Upsample(scale_factor=2, mode="bilinear"), 1, 2, 3),
    "nearest entries": of_module(torch.nn.Upsample(size=5), 2, 3),
    "shuffle": of_module(torch.nn.PixelShuffle(2), 4, 2, 2),
}


@pytest.mark.parametrize("make", HERE.values(), ids=HERE)
def test_a_default_device_moves_nothing(make):
    pattern = Pattern((3, 4), [0, 2, 2, 1], [3, 0, 0, 1], [1, 0, 2, 2], 3)
    theta, x = torch.arange(1.0, 4), torch.arange(4.0)
    expected = make(pattern.fill(theta), x)
    with torch.device("meta"):
        actual = make(pattern.fill(theta), x)
    assert torch.equal(actual, expected)


def test_numbers_and_arrays_are_parameters():
    pattern = Pattern((1, 2), [0, 0], [0, 1], [0, 1], 2)
    assert pattern.fill([1, 2]).dtype == torch.get_default_dtype()
    assert pattern.fill(np.array([1.0, 2.0])).dtype == torch.float64
    assert pattern.fill([1, 2]).to_dense().tolist() == [[1, 2]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@each_case
def test_dtype_is_kept(pattern, dtype):
    matrix = filled(pattern).to(dtype)
    x = torch.randn(pattern.shape[1], 3).to(dtype)
    assert matrix.dtype == matrix.to_dense().dtype == matrix.values.dtype == dtype
    assert (matrix @ x).dtype == dtype
    assert matrix.coalesce().dtype == matrix.T.dtype == dtype
    expected = matrix.to_dense().double() @ x.double()
    scale = matrix.to_dense().double().abs() @ x.double().abs() + 1e-30
    error = ((matrix @ x).double() - expected).abs() / scale
    assert error.max() <= 4 * torch.finfo(dtype).eps


def test_a_dense_request_beyond_memory_is_refused_before_allocating():
    size = 10_000_000
    matrix = Pattern((size, size), [0, size - 1], [size - 1, 0], [0, 0], 1).fill([1.0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MemoryError, match=r"10000000x10000000 matrix .* 372,529\.0 GiB.*sparse"):
        matrix.to_dense()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 10_000
    assert matrix.coalesce().pattern.nnz == 2


def test_require_memory_lets_small_requests_pass():
    require_memory("a number", 1, torch.float64, torch.device("cpu"))


def test_cells_beyond_64_bits_are_told_apart():
    pattern = Pattern((2**34, 2**62), [0, 2, 0], [5, 2**40, 5], [0, 2, 1], 3)
    matrix = pattern.fill([1.0, 2.0, 4.0])
    coalesced = matrix.coalesce()
    assert coalesced.values.tolist() == [3.0, 4.0]
    assert coalesced.pattern.row.tolist() == [0, 2]
    assert coalesced.pattern.col.tolist() == [5, 2**40]


@pytest.mark.parametrize("theta", [[1.0], [1.0, 2.0, 3.0], [[1.0], [2.0], [3.0]], []], ids=repr)
def test_theta_of_the_wrong_length_is_refused(theta):
    with pytest.raises(ValueError, match=rf"num_parameters=2 values, got {len(theta)}"):
        SparseMatrix(Pattern((1, 1), [0], [0], [0], 2), torch.tensor(theta))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2), (2, 3, 1), (1, 2)], ids=str)
def test_vectors_of_another_shape_are_refused(shape):
    matrix = Pattern((3, 2), [0], [1], [0], 1).fill([1.0])
    with pytest.raises(ValueError, match="cols=2"):
        matrix @ torch.zeros(shape)


def test_inner_sizes_must_agree():
    matrix = Pattern((3, 2), [0], [1], [0], 1).fill([1.0])
    with pytest.raises(ValueError, match="got 2 columns and 3 rows"):
        matrix @ matrix


def test_repr():
    assert repr(CIRCULAR.fill(torch.zeros(9))) == "SparseMatrix(4x4, nnz=36, dtype=torch.float32)"


def test_a_quotient_is_rounded_once_and_follows_its_divisor():
    matrix = filled(CASES["untied convolution"])
    for third in (3, np.float32(3), torch.tensor(3.0), torch.tensor(3, dtype=torch.float16)):
        assert torch.equal((matrix / third).to_dense(), matrix.to_dense() / 3)
    divisor = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    quotient = matrix / divisor
    for _ in range(2):
        quotient.to_dense().sum().backward()
    torch.testing.assert_close(divisor.grad, -matrix.to_dense().sum() / 2)
    with torch.no_grad():
        divisor.fill_(4)
    assert torch.equal(quotient.to_dense(), matrix.to_dense() / 4)


def test_no_imaginary_part_is_dropped():
    pattern = CASES["untied convolution"]
    real, wide = filled(pattern), filled(pattern, dtype=torch.complex128)
    x = np.exp(1j * np.arange(pattern.shape[1]))
    operator = real.linear_operator()
    np.testing.assert_allclose(operator.matvec(x), truth(real) @ x)
    np.testing.assert_allclose(
        operator.rmatvec(operator.matvec(x)), truth(real).T @ truth(real) @ x
    )
    for number in (1 + 2j, np.complex64(1 + 2j), np.complex128(1 + 2j)):
        assert torch.equal((wide * number).to_dense(), wide.to_dense() * (1 + 2j))
        with pytest.raises(ValueError, match=r"float64 must be multiplied by a real number"):
            real * number


@pytest.fixture
def computed():
    """A linear layer with its matrix and constant."""
    layer = torch.nn.Linear(3, 2, dtype=torch.float64)
    return layer, *to_matrix(layer, (3,))


def test_what_is_made_of_a_computed_matrix_follows_its_sources(computed):
    layer, matrix, _ = computed
    made = {
        "negative": -1 * -matrix,
        "coalesced": matrix.coalesce(),
        "of another type": matrix.to(torch.float32),
        "of its own type": matrix.to(torch.float64),
    }
    with torch.no_grad():
        layer.weight.copy_(torch.arange(6.0).view(2, 3))
    for name, other in made.items():
        assert torch.equal(other.to_dense().double(), layer.weight), name


WRITES = {
    "mul_": lambda b: b.mul_(0),
    "+=": lambda b: b.__iadd__(1),
    "an entry": lambda b: b.__setitem__(0, 100.0),
    "data": lambda b: setattr(b, "data", torch.zeros(2)),
    "foreach": lambda b: torch._foreach_mul_([b], 2.0),
    "out": lambda b: torch.add(torch.ones(2), 1, out=b),
    "one of two outs": lambda b: torch.max(torch.ones(2, 2), 0, out=(b, torch.ones(2).long())),
    "inplace": lambda b: torch.nn.functional.relu(b, inplace=True),
    "an operator": lambda b: torch.ops.aten.add_.Tensor(b, 1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_computed_vector_is_not_written_to(computed, write):
    layer, _, constant = computed
    with torch.no_grad(), pytest.raises(RuntimeError, match="write to what it is computed from"):
        write(constant)
    assert torch.equal(torch.zeros(2).double().add_(constant), layer.bias)


def test_a_computed_matrix_whose_sources_change_their_type_is_refused(computed):
    layer, matrix, _ = computed
    layer.float()
    with pytest.raises(TypeError, match=r"were torch.float64 .* and are torch.float32 now"):
        matrix @ torch.ones(3).double()


def test_a_computed_matrix_whose_sources_change_their_number_is_refused(computed):
    layer, matrix, _ = computed
    layer.weight = torch.nn.Parameter(torch.ones(2, 4).double())
    with pytest.raises(ValueError, match=r"were 6 numbers .* and are 8 now: make it anew"):
        matrix.to_dense()


def test_autocast_does_not_reach_the_entries_of_a_matrix():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 3), torch.nn.Conv1d(3, 2, 3))
    matrix, _ = to_matrix(network, (2, 8))
    x = torch.randn(16)
    expected = matrix @ x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = matrix.detach()
    assert torch.equal(kept @ x, expected)
