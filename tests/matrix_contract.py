"""What every matrix keeps, however it is made: inherit, and name the cases."""

import io
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from contract import assert_near

from sparsemat import Matrix, dense_pattern

KINDS = (torch.float64, torch.complex128)


class MatrixCase(NamedTuple):
    """A matrix as a function of its parameters, and the same by brute force.

    Attributes:
        shapes: Shape of each parameter tensor.
        build: The matrix from the parameters.
        dense: The dense tensor from the parameters, without the library's matrices.
    """

    shapes: tuple[tuple[int, ...], ...]
    build: Callable[..., Matrix]
    dense: Callable[..., torch.Tensor]


def drawn(case, dtype=torch.float64, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [
        torch.randn(shape, dtype=wide, generator=generator).to(dtype).requires_grad_(bool(options))
        for shape in case.shapes
    ]


def vectors(*shape, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=dtype, generator=generator)


class MatrixContract:
    """Tests of a kind of matrix; a subclass has ``cases`` by readable names."""

    cases: dict[str, MatrixCase]

    def pytest_generate_tests(self, metafunc):
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases.values(), ids=self.cases)
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", KINDS, ids=str)

    def both(self, case, dtype=torch.float64):
        leaves = drawn(case, dtype)
        return case.build(*leaves), case.dense(*leaves)

    def test_written_out_it_is_the_brute_force(self, case, dtype):
        matrix, dense = self.both(case, dtype)
        assert matrix.shape == dense.shape
        assert matrix.dtype == matrix.to_dense().dtype == dtype
        assert matrix.device == dense.device
        assert_near(matrix.to_dense(), dense)

    def test_it_multiplies_from_both_sides(self, case, dtype):
        matrix, dense = self.both(case, dtype)
        rows, cols = dense.shape
        for x in (
            vectors(cols, dtype=dtype),
            vectors(cols, 3, dtype=dtype),
            dense.new_zeros(cols, 0),
        ):
            assert_near(matrix @ x, dense @ x)
        for x in (vectors(rows, dtype=dtype), vectors(3, rows, dtype=dtype)):
            assert_near(x @ matrix, x @ dense)
        assert_near(matrix.row(0), dense[0])

    def test_its_transposes(self, case, dtype):
        matrix, dense = self.both(case, dtype)
        forms = {"T": dense.T, "mT": dense.mT, "H": dense.mH}
        for name, expected in forms.items():
            assert_near(getattr(matrix, name).to_dense(), expected.resolve_conj())
        assert_near(matrix.conj().to_dense(), dense.conj().resolve_conj())
        assert_near(matrix.T.T.to_dense(), dense)

    def test_the_adjoint_passes_the_dot_test(self, case, dtype):
        """<W x, y> = <x, W^H y>, as ``pylops.dottest`` asks."""
        matrix, dense = self.both(case, dtype)
        x, y = vectors(dense.shape[1], dtype=dtype), vectors(dense.shape[0], dtype=dtype, seed=2)
        assert_near(torch.vdot(matrix @ x, y), torch.vdot(x, matrix.H @ y))

    def test_its_algebra(self, case, dtype):
        matrix, dense = self.both(case, dtype)
        other, more = case.build(*drawn(case, dtype, 3)), case.dense(*drawn(case, dtype, 3))
        two = torch.tensor(2.0, dtype=dtype)
        results = {
            "+": (matrix + other, dense + more),
            "-": (matrix - other, dense - more),
            "negative": (-matrix, -dense),
            "number from the left": (2.5 * matrix, 2.5 * dense),
            "number from the right": (matrix * 3, dense * 3),
            "number of numpy": (np.float64(2.5) * matrix, 2.5 * dense),
            "tensor": (two * matrix, 2 * dense),
            "divided": (matrix / 4, dense / 4),
            "@": (matrix @ other.T, dense @ more.T),
            "mixed": ((2 * matrix - other) @ (other / 2).T, (2 * dense - more) @ (more / 2).T),
        }
        if dtype.is_complex:
            results["complex number"] = (2j * matrix, 2j * dense)
            results["its conjugate"] = ((2j * matrix).H, (2j * dense).mH.resolve_conj())
        for actual, expected in results.values():
            assert isinstance(actual, Matrix)
            assert_near(actual.to_dense(), expected)
            x = vectors(expected.shape[1], 2, dtype=dtype)
            assert_near(actual @ x, expected @ x)

    def test_a_complex_number_needs_a_complex_matrix(self, case):
        matrix, _ = self.both(case)
        with pytest.raises(ValueError, match=r"torch.float64 must be multiplied by a real .* 2j"):
            2j * matrix

    def test_parameters_are_counted(self, case):
        matrix, _ = self.both(case)
        assert matrix.num_parameters == sum(np.prod(shape, dtype=int) for shape in case.shapes)

    @pytest.mark.parametrize("to", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
    def test_types_change_and_sums_are_rounded_once(self, case, to):
        leaves = drawn(case)
        rounded = [leaf.to(to) for leaf in leaves]
        matrix = case.build(*leaves).to(to)
        wide = torch.complex128 if to.is_complex else torch.float64
        dense = case.dense(*(leaf.to(wide) for leaf in rounded))
        assert matrix.dtype == to
        tolerance = 4e-2 if to == torch.bfloat16 else 1e-5
        x = vectors(dense.shape[1], 2).to(to)
        for actual, expected in ((matrix.to_dense(), dense), (matrix @ x, dense @ x.to(wide))):
            atol = tolerance * expected.abs().max().item()
            torch.testing.assert_close(actual.to(wide), expected, rtol=0, atol=atol)

    def test_derivatives_of_two_orders(self, case, dtype):
        leaves = drawn(case, dtype, grad=True)
        cols = case.build(*leaves).shape[1]
        x = vectors(cols, 2, dtype=dtype).requires_grad_()

        def product(x, *leaves):
            return case.build(*leaves) @ x

        fast = {"fast_mode": dtype.is_complex}
        assert torch.autograd.gradcheck(product, (x, *leaves), **fast)
        assert torch.autograd.gradgradcheck(product, (x, *leaves), **fast)

    def test_gradients_reach_the_parameters(self, case):
        leaves = drawn(case, grad=True)
        matrix = case.build(*leaves)
        assert matrix.requires_grad
        weights = vectors(*matrix.shape)
        mine = torch.autograd.grad((matrix.to_dense() * weights).sum(), leaves)
        theirs = torch.autograd.grad((case.dense(*leaves) * weights).sum(), leaves)
        for actual, expected in zip(mine, theirs, strict=True):
            assert_near(actual, expected)
        frozen = matrix.detach()
        assert not frozen.requires_grad
        before = frozen.to_dense()
        with torch.no_grad():
            for leaf in leaves:
                leaf.add_(1)
        assert torch.equal(frozen.to_dense(), before)  # of then
        assert_near(matrix.to_dense().detach(), case.dense(*leaves).detach())  # of now

    def test_it_maps_over_batches(self, case):
        matrix, dense = self.both(case)
        x = vectors(4, dense.shape[1])
        assert_near(torch.func.vmap(lambda x: matrix @ x)(x), x @ dense.T)
        many = [torch.stack(pair) for pair in zip(drawn(case), drawn(case, seed=5), strict=True)]
        mapped = torch.func.vmap(lambda *leaves: case.build(*leaves) @ x[0])(*many)
        assert_near(mapped[0], dense @ x[0])
        assert_near(mapped[1], case.dense(*drawn(case, seed=5)) @ x[0])

    def test_forward_derivatives_of_forward_derivatives(self, case):
        (first, *others), forward = drawn(case), torch.func.jacfwd
        x = vectors(case.dense(first, *others).shape[1])

        def mixed(build):
            return forward(forward(lambda t, x: build(t, *others) @ x, 0), 1)(first, x)

        assert_near(mixed(case.build), mixed(case.dense))

    def test_scipy_takes_it_as_an_operator(self, case, dtype):
        matrix, dense = self.both(case, dtype)
        operator, expected = matrix.linear_operator(), dense.numpy()
        x = vectors(dense.shape[1], dtype=dtype).numpy()
        y = vectors(dense.shape[0], 2, dtype=dtype).numpy()
        np.testing.assert_allclose(operator @ x, expected @ x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(operator.H @ y, expected.conj().T @ y, rtol=1e-10, atol=1e-12)
        if min(dense.shape) > 2:
            largest = scipy.sparse.linalg.svds(
                operator, 1, return_singular_vectors=False, rng=np.random.default_rng(0)
            )
            truth = np.linalg.svd(expected, compute_uv=False)[0]
            np.testing.assert_allclose(largest[0], truth, rtol=1e-8)

    def test_scipy_has_float32_for_16_bits(self, case):
        leaves = drawn(case)
        operator = case.build(*leaves).to(torch.bfloat16).linear_operator()
        expected = case.dense(*leaves).numpy()
        y = operator @ np.ones(expected.shape[1])
        assert operator.dtype == y.dtype == np.float32
        atol = 4e-2 * np.abs(expected).sum(1).max(initial=0)
        np.testing.assert_allclose(y, expected.sum(1), rtol=0, atol=atol)

    def test_copies_and_files_are_of_then(self, case):
        leaves = drawn(case, grad=True)
        matrix, dense = case.build(*leaves), case.dense(*leaves).detach()
        file = io.BytesIO()
        torch.save(matrix, file)
        file.seek(0)
        copies = deepcopy(matrix), torch.load(file, weights_only=False)
        with torch.no_grad():
            for leaf in leaves:
                leaf.zero_()
        for copy in copies:
            assert copy.requires_grad
            assert_near(copy.to_dense().detach(), dense)

    def test_it_follows_a_state_dict(self, case):
        """A module's matrix reads the parameters that were loaded."""
        owner = torch.nn.ParameterList(drawn(case))
        matrix = case.build(*owner)
        owner.load_state_dict(dict(zip(owner.state_dict(), drawn(case, seed=7), strict=True)))
        assert_near(matrix.to_dense().detach(), case.dense(*drawn(case, seed=7)))

    def test_sizes_that_do_not_fit_are_named(self, case):
        matrix, dense = self.both(case)
        rows, cols = dense.shape
        larger = torch.zeros(cols + 1), torch.zeros(rows + 1)
        with pytest.raises(ValueError, match=rf"cols={cols}, got \({cols + 1},\)"):
            matrix @ larger[0].double()
        with pytest.raises(ValueError, match=rf"rows={rows}, got \({rows + 1},\)"):
            larger[1].double() @ matrix
        with pytest.raises(ValueError, match=r"float64 and torch\.float32"):
            matrix @ torch.zeros(cols)
        with pytest.raises(ValueError, match=rf"got {cols} columns and {cols + 1} rows"):
            matrix @ wide(cols + 1, 2)
        with pytest.raises(ValueError, match=rf"\({rows}, {cols}\).*\({rows}, {cols + 1}\)"):
            matrix + wide(rows, cols + 1)
        with pytest.raises(ValueError, match=rf"0\.\.{rows - 1}, got {rows}"):
            matrix.row(rows)
        for other in (dense.numpy(), dense.tolist(), "x", None):
            with pytest.raises(TypeError, match=f"got {type(other).__name__}"):
                matrix @ other


def wide(rows, cols):
    """A matrix of another size."""
    return dense_pattern(rows, cols).fill(torch.zeros(rows * cols, dtype=torch.float64))
