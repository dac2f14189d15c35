"""What every structured matrix keeps, member by member, and which classes contain which."""

import copy
import pickle
from contextlib import contextmanager
from itertools import combinations

import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from sparsemat import Pattern
from sparsemat.structured import (
    Blast,
    BlockLowRank,
    BlockSparse,
    Butterfly,
    Circulant,
    DiagonalStateSpace,
    Equivariant,
    KroneckerSum,
    LowRank,
    Monarch,
    SparseProduct,
    StrassenTile,
    StructuredLinear,
    TileBases,
    Toeplitz,
    Usv,
    bit_reversal,
    butterfly_patterns,
    hamilton,
    hippo_legs,
    parameter_groups,
    phm,
)
from sparsemat.structured.base import relative_error

MASK = torch.tensor([[1, 0], [1, 1], [0, 1]], dtype=torch.bool)
MEMBERS = {
    "low rank": lambda: LowRank((6, 8), 3),
    "usv": lambda: Usv((6, 8), 2),
    "block low rank": lambda: BlockLowRank((6, 8), (3, 2), 2),
    "block low rank, wide blocks": lambda: BlockLowRank((4, 12), (2, 3), 1),
    "monarch": lambda: Monarch((6, 8), (2, 4)),
    "monarch of rank 2": lambda: Monarch((6, 8), (3, 2), 2),
    "blast": lambda: Blast((6, 8), (3, 2), 2),
    "kronecker, right first": lambda: KroneckerSum((6, 8), (3, 2), 1),
    "kronecker, left first": lambda: KroneckerSum((8, 6), (2, 3), 2),
    "phm": lambda: phm((6, 8), 2),
    "butterfly of 2": lambda: Butterfly((2, 2)),
    "butterfly of 8": lambda: Butterfly((8, 8)),
    "butterfly of 16": lambda: Butterfly((16, 16)),
    "sparse product, mixed radix": lambda: SparseProduct((12, 12), butterfly_patterns((2, 3, 2))),
    "sparse product, irregular": lambda: SparseProduct((6, 8), IRREGULAR),
    "block sparse": lambda: BlockSparse((6, 8), MASK),
    "toeplitz": lambda: Toeplitz((5, 7)),
    "circulant": lambda: Circulant((6, 6)),
    "equivariant": lambda: Equivariant((6, 9), 3),
    "state space": lambda: DiagonalStateSpace((12, 12), 4, step=0.1),
    "state space, legs": lambda: DiagonalStateSpace((9, 9), 6, "legs", 0.2),
    "tile product": lambda: StrassenTile((12, 8), _bases(5, 2)),
    "tile product, 4x4": lambda: StrassenTile((32, 32), _bases(24, 4)),
}
UNCOUNTED = {
    "toeplitz", "circulant", "state space", "state space, legs", "sparse product, irregular"
}  # fmt: skip
NO_PROJECTION = {
    "state space", "state space, legs", "sparse product, mixed radix", "sparse product, irregular"
}  # fmt: skip
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
IRREGULAR = (
    Pattern(
        (6, 5), [0, 0, 1, 2, 3, 4, 5, 5], [0, 3, 1, 2, 2, 4, 0, 1], [0, 1, 2, 2, 3, 4, 5, 5], 6
    ),
    Pattern((5, 8), [0, 1, 1, 2, 3, 4, 4, 4], [7, 0, 3, 5, 1, 2, 4, 6], range(8), 8),
)


def _bases(rank, tile):
    return TileBases.random(rank, tile, torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=MEMBERS, ids=str)
def kind(request):
    return request.param


@pytest.fixture
def member(kind):
    """A member at a point where nothing is special, none of its parameters as it starts."""
    matrix = MEMBERS[kind]()
    with torch.no_grad():
        for parameter in matrix.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return matrix


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


def by_einsum(matrix, x):
    """The product that the einsum string of a member declares."""
    operands = matrix.operands()
    *terms, last = matrix.einsum.split("->")[0].split(",")
    sizes = {last[0]: len(x)}
    for term, operand in zip(terms, operands, strict=True):
        sizes |= dict(zip(term, operand.shape, strict=True))
    return torch.einsum(matrix.einsum, *operands, x.reshape([sizes[c] for c in last])).flatten(1)


def near(actual, expected, tolerance=1e-10):
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def called(matrix, values, x):
    return functional_call(matrix, values, (x,))


def parameters(matrix):
    return {name: p.detach().clone() for name, p in matrix.named_parameters()}


def jacobian_rank(matrix):
    jacobians = torch.func.jacrev(lambda v: called(matrix, v, torch.eye(matrix.shape[1])))(
        parameters(matrix)
    )
    flat = [j.reshape(matrix.shape[0] * matrix.shape[1], -1) for j in jacobians.values()]
    return int(torch.linalg.matrix_rank(torch.cat(flat, 1)))


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)], ids=str)
def test_degrees_of_freedom_of_blast_on_every_grid(grid):
    torch.manual_seed(0)
    matrix = Blast((12, 8), grid, 2).double()
    torch.nn.init.normal_(matrix.diagonals)
    assert jacobian_rank(matrix) == matrix.dof


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30], ids="{:g}".format)
def test_relative_errors_at_every_scale(scale):
    exact = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=torch.float32) * scale
    found = torch.tensor([[3.0, 1.0], [2.0, -2.0]], dtype=torch.float32) * scale
    assert relative_error(found, exact) == pytest.approx(3 / 5)
    assert relative_error(exact, exact) == 0


def test_a_relative_error_of_zeros():
    zeros, small = torch.zeros(2, 3), torch.full((2, 3), 1e-30)
    assert relative_error(zeros, zeros) == 0
    assert relative_error(small, zeros) == float("inf")
    assert relative_error(zeros, small) == 1


@pytest.mark.parametrize("kind", ["butterfly of 8", "toeplitz", "circulant", "equivariant"])
@pytest.mark.parametrize("scale", [1e-30, 1e30], ids="{:g}".format)
def test_projections_at_every_scale(kind, scale):
    torch.manual_seed(0)
    like = MEMBERS[kind]()
    target = torch.randn(like.shape)
    error = type(like).project(target, **like.structure).error
    single = (target * scale).float()
    assert type(like).project(single, **like.structure).error == pytest.approx(error, rel=1e-4)


def test_means_of_half_entries_neither_overflow_nor_stop():
    member = Circulant((64, 64)).half()
    with torch.no_grad():
        member._fit(torch.full((64, 64), 6e4, dtype=torch.float16))
    assert torch.equal(member.theta, torch.full((64,), 6e4, dtype=torch.float16))
    member = Equivariant((4096, 4096), 4096).half()
    with torch.no_grad():
        member._fit(torch.eye(4096, dtype=torch.float16))
    assert member.own.item() == 1 and member.pooled.item() == 0


def test_what_overflows_is_refused():
    dense = torch.full((4, 4), 6e4, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"Equivariant.*float16.*6e\+04"):
        Equivariant.project(dense, elements=2)
    dense[0, 0] = float("nan")
    with pytest.raises(ValueError, match="finite, got 1 of 16"):
        LowRank.project(dense, rank=1)


class TestContract:
    def test_the_fast_product_is_that_of_the_factors(self, member):
        x = torch.randn(5, member.shape[1])
        dense = member.factors()[0].to_dense()
        for factor in member.factors()[1:]:
            dense = dense @ factor.to_dense()
        assert dense.shape == member.shape
        near(member(x), x @ dense.T)
        near(member.to_dense(), dense)

    def test_the_lazy_matrix_and_its_transpose(self, member):
        x, y = torch.randn(member.shape[1], 3), torch.randn(member.shape[0])
        near(member.matrix() @ x, member.to_dense() @ x)
        near(member.T @ y, member.to_dense().T @ y)
        near(member @ x, member.to_dense() @ x)
        near(member @ x[:, 0], member.to_dense() @ x[:, 0])
        assert member.T.shape == member.shape[::-1]

    def test_the_lazy_matrix_follows_the_parameters(self, member):
        matrix, transposed = member.matrix(), member.T
        with torch.no_grad():
            for name, parameter in list(member.named_parameters()):
                parameter.mul_(0.5)  # in place, as an optimizer does
                owner, _, own = name.rpartition(".")
                part = member.get_submodule(owner)
                setattr(part, own, torch.nn.Parameter(parameter + 0.25))
        near(matrix.to_dense(), member.to_dense())
        near(transposed.to_dense(), member.to_dense().T)

    def test_the_fast_product_is_the_declared_einsum(self, member):
        x = torch.randn(5, member.shape[1])
        near(member(x), by_einsum(member, x))

    def test_leading_axes(self, member):
        x = torch.randn(2, 3, member.shape[1])
        near(member(x), (x.reshape(6, -1) @ member.to_dense().T).reshape(2, 3, -1))
        near(member(x[0, 0]), member.to_dense() @ x[0, 0])
        assert member(x[:0]).shape == (0, 3, member.shape[0])

    def test_no_vectors_give_zero_gradients(self, member):
        rows, cols = member.shape
        for shape in ((0, cols), (2, 0, cols)):
            x = torch.zeros(shape, requires_grad=True)
            inputs = x, *member.parameters()
            found = torch.autograd.grad(member(x).sum(), inputs)
            for gradient, value in zip(found, inputs, strict=True):
                assert torch.equal(gradient, torch.zeros_like(value))
        assert (member @ torch.zeros(cols, 0)).shape == (rows, 0)
        (member @ torch.zeros(cols, 0)).sum().backward()
        assert all(not p.grad.any() for p in member.parameters())

    def test_no_vectors_are_of_the_type_that_some_would_be(self, member):
        for dtype in (torch.float32, torch.float64, torch.complex128):
            x = torch.zeros(1, member.shape[1], dtype=dtype)
            try:
                expected = member(x).dtype
            except (RuntimeError, ValueError) as error:
                with pytest.raises(type(error)):
                    member(x[:0])
            else:
                assert member(x[:0]).dtype == expected

    def test_derivatives_of_first_and_second_order(self, member):
        inputs = (torch.randn(4, member.shape[1], requires_grad=True), *member.parameters())
        directions = [torch.randn_like(p) for p in inputs]
        found = []
        for product in (member, lambda x: by_einsum(member, x)):
            loss = product(inputs[0]).pow(3).sum()
            first = torch.autograd.grad(loss, inputs, create_graph=True)
            slope = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
            found.append((*first, *torch.autograd.grad(slope, inputs)))
        for ours, expected in zip(*found, strict=True):
            near(ours, expected, 1e-9)

    def test_forward_derivatives(self, member):
        x = torch.randn(4, member.shape[1])
        values = parameters(member)
        tangents = {name: torch.randn_like(v) for name, v in values.items()}
        dx = torch.randn_like(x)
        _, ours = torch.func.jvp(lambda v, x: called(member, v, x), (values, x), (tangents, dx))
        step = 1e-5

        def at(h):
            return called(member, {n: v + h * tangents[n] for n, v in values.items()}, x + h * dx)

        near(ours, (at(step) - at(-step)) / (2 * step), 1e-6)

    def test_operations_are_those_that_torch_counts(self, kind, member):
        with FlopCounterMode(display=False) as counter:
            member(torch.randn(7, member.shape[1]))
        counted = counter.get_total_flops()
        # torch counts neither transforms nor general sparse products
        assert counted == (0 if kind in UNCOUNTED else 2 * 7 * member.macs) or (
            kind.startswith("state space")  # making the kernel is counted, once a batch
        )

    def test_a_member_is_its_own_projection(self, kind, member):
        if kind in NO_PROJECTION:
            with pytest.raises(TypeError, match=f"no projection to {type(member).__name__}"):
                type(member).project(member.to_dense(), **member.structure)
            return
        found = type(member).project(member.to_dense().detach(), **member.structure)
        assert found.error < (1e-2 if kind == "blast" else 1e-8)
        assert found.guarantee == type(member).guarantee

    def test_a_complex_member_is_its_own_projection(self, kind, member):
        if kind in NO_PROJECTION:
            return
        target = torch.randn(member.shape, dtype=torch.complex128)
        if kind == "blast" or kind.startswith("tile product"):
            with pytest.raises(
                TypeError, match=r"real matrix can be fitted, got torch\.complex128"
            ):
                type(member).project(target, **member.structure)
            return
        found = type(member).project(target, **member.structure).matrix
        assert found.dtype == torch.complex128
        dense, x = found.to_dense().detach(), torch.randn(3, member.shape[1]) + 1j
        near(found(x), x @ dense.T)
        near(found.matrix().to_dense(), dense)
        again = type(member).project(dense, **member.structure)
        assert again.error < 1e-8

    def test_nothing_nearer_is_found_by_descent(self, kind, member):
        if kind in NO_PROJECTION:
            return
        target = torch.randn(member.shape)
        found, error, guarantee = type(member).project(target, **member.structure)
        near(torch.tensor(error), (found.to_dense() - target).norm() / target.norm())
        if guarantee == "exact":
            frozen = isinstance(found, StrassenTile)  # the theorem is for given bases
            values = [found.weight] if frozen else list(found.parameters())
            loss = (found.to_dense() - target).square().sum()
            for gradient in torch.autograd.grad(loss, values):
                near(gradient, torch.zeros_like(gradient), 1e-8)
            distance = (member.to_dense() - target).norm() / target.norm()
            assert frozen or error <= distance

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_zero_is_a_member_and_its_own_projection(self, kind, member, dtype):
        if kind in NO_PROJECTION:
            return
        target = torch.zeros(member.shape, dtype=dtype)
        structure = copy.deepcopy(member).to(dtype).structure
        found, error, _ = type(member).project(target, **structure)
        assert error == 0
        assert torch.equal(found.to_dense().abs(), target)

    def test_degrees_of_freedom(self, member):
        assert jacobian_rank(member) == member.dof

    def test_number_of_parameters(self, member):
        assert member.num_parameters == sum(p.numel() for p in member.parameters())

    def test_state_dict(self, kind, member):
        other = MEMBERS[kind]()
        other.load_state_dict(member.state_dict())
        near(other.to_dense(), member.to_dense())
        near(copy.deepcopy(member).to_dense(), member.to_dense())

    def test_pickling(self, member):
        x = torch.randn(3, member.shape[1])
        again = pickle.loads(pickle.dumps(member))
        assert torch.equal(again(x), member(x))
        near(again.matrix().to_dense(), member.to_dense())

    def test_constants_have_the_type_of_the_parameters(self, member):
        x = torch.randn(3, member.shape[1])
        with default_dtype(torch.float32):
            near(by_einsum(member, x), member(x), 1e-13)

    def test_single_precision(self, member):
        x = torch.randn(5, member.shape[1])
        expected = member(x)
        single = copy.deepcopy(member).float()
        assert single(x.float()).dtype == torch.float32
        near(single(x.float()).double(), expected, 1e-4)

    @HALVES
    def test_half_precision(self, member, dtype):
        x = torch.randn(5, member.shape[1])
        half = copy.deepcopy(member).to(dtype)
        expected = copy.deepcopy(half).double()(x.to(dtype).double())
        y = half(x.to(dtype))
        assert y.dtype == half.matrix().dtype == dtype
        near(y.double(), expected, 2e-2)
        near((half.matrix() @ x.T.to(dtype)).double(), expected.T, 2e-2)
        y.sum().backward()
        assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in half.parameters())

    @HALVES
    def test_a_projection_in_half_precision_is_that_in_double(self, kind, member, dtype):
        if kind in NO_PROJECTION:
            return
        target = torch.randn(member.shape).to(dtype)
        own = copy.deepcopy(member).to(dtype)  # its bases, where it has some
        found, error, _ = type(member).project(target, **own.structure)
        expected = type(member).project(target.double(), **member.structure)
        assert found.dtype == found.to_dense().dtype == dtype
        near(torch.tensor(error), torch.tensor(expected.error), 2e-2)
        near(found.to_dense().double(), expected.matrix.to_dense(), 5e-2)

    def test_vectors_of_the_type_of_autocast(self, member):
        x = torch.randn(5, member.shape[1]).bfloat16()
        single = copy.deepcopy(member).float()
        with torch.autocast("cpu", torch.bfloat16):
            y = StructuredLinear(single)(x)
        near(y.double(), member(x.double()), 5e-2)
        y.sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in single.parameters())

    def test_vmap_gives_a_gradient_a_sample(self, member):
        x = torch.randn(3, member.shape[1])
        values = parameters(member)

        def loss(values, x):
            return called(member, values, x).square().sum()

        mapped = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, x)
        for k in range(3):
            for name, gradient in torch.func.grad(loss)(values, x[k]).items():
                near(mapped[name][k], gradient)

    def test_compile(self, member):
        torch._dynamo.reset()
        x = torch.randn(4, member.shape[1])
        compiled = torch.compile(member, backend="aot_eager", fullgraph=True)
        near(compiled(x), member(x))
        ours = torch.autograd.grad(compiled(x).square().sum(), list(member.parameters()))
        expected = torch.autograd.grad(member(x).square().sum(), list(member.parameters()))
        for mine, theirs in zip(ours, expected, strict=True):
            near(mine, theirs)

    def test_training_as_a_layer(self, member):
        layer = StructuredLinear(member)
        groups = parameter_groups(layer, 1e-3)
        assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in layer.parameters()}
        assert all(group["lr"] > 0 for group in groups)
        optimizer = torch.optim.Adam(groups)
        x = torch.randn(16, layer.in_features)
        losses = []
        for _ in range(20):
            loss = (layer(x) - 1).square().mean()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[-1] < losses[0]

    def test_a_vector_of_another_size_is_refused(self, member):
        cols = member.shape[1]
        with pytest.raises(ValueError, match=f"{cols}.*{cols + 1}"):
            member(torch.randn(2, cols + 1))
        with pytest.raises(ValueError, match=f"{cols}.*{cols + 1}"):
            member @ torch.randn(cols + 1, 2)


REFUSED = {
    "rank above the smaller size": (lambda: LowRank((6, 8), 7), "min.*=6, got 7"),
    "rank of zero": (lambda: Usv((6, 8), 0), "6, got 0"),
    "rows that blocks do not divide": (lambda: BlockLowRank((6, 8), (4, 2), 1), "got 6 and 4"),
    "columns that blocks do not divide": (lambda: Blast((6, 8), (3, 3), 1), "got 8 and 3"),
    "rank above the side of a block": (lambda: Monarch((6, 8), (3, 2), 3), "=2, got 3"),
    "too many terms": (lambda: KroneckerSum((6, 8), (3, 2), 7), "6, got 7"),
    "size that is no power of two": (lambda: Butterfly((6, 6)), "got 6"),
    "butterfly that is not square": (lambda: Butterfly((4, 8)), r"got shape \(4, 8\)"),
    "Fourier transform of no power of two": (lambda: Butterfly.fourier(12), "got 12"),
    "bits of no power of two": (lambda: bit_reversal(1), "got 1"),
    "factors that do not fit": (
        lambda: SparseProduct((6, 8), (IRREGULAR[1], IRREGULAR[0])),
        "got 5 after 6",
    ),
    "factors that end early": (lambda: SparseProduct((6, 8), IRREGULAR[:1]), r"=8, got \[5\]"),
    "no factors": (lambda: SparseProduct((6, 8), ()), "got none"),
    "radix of one": (lambda: butterfly_patterns((2, 1)), r"got \(2, 1\)"),
    "mask that keeps nothing": (lambda: BlockSparse((6, 8), ~MASK & MASK), "with 0 kept"),
    "mask of numbers": (lambda: BlockSparse((6, 8), MASK.float()), "got torch.float32"),
    "circulant that is not square": (lambda: Circulant((5, 6)), r"got \(5, 6\)"),
    "one element": (lambda: Equivariant((2, 3), 1), "got 1"),
    "odd states": (lambda: DiagonalStateSpace((8, 8), 3), "got 3"),
    "step of zero": (
        lambda: DiagonalStateSpace((8, 8), 4, step=0),
        "step must be above 0 and finite, got 0",
    ),
    "step that is no number": (
        lambda: DiagonalStateSpace((8, 8), 4, step=float("nan")),
        "got nan",
    ),
    "unknown poles": (lambda: DiagonalStateSpace((8, 8), 4, "nice"), "got 'nice'"),
    "tile that does not divide": (lambda: StrassenTile((12, 10), _bases(5, 2)), r"\(12, 10\)"),
    "empty matrix": (lambda: LowRank((0, 8), 1), r"got \(0, 8\)"),
    "rows that are no integer": (lambda: LowRank((6.7, 8), 1), r"shape .* got \(6\.7, 8\)"),
    "three sizes": (lambda: LowRank((6, 8, 1), 1), r"shape .* got \(6, 8, 1\)"),
    "one size": (lambda: Toeplitz(6), "shape must be two positive integers, got 6"),
    "one size of a circulant": (lambda: Circulant((6,)), r"shape .* got \(6,\)"),
    "rank that is no integer": (lambda: LowRank((6, 8), 2.5), r"rank .* got 2\.5"),
    "rank that is a truth value": (lambda: Usv((6, 8), True), "rank .* got True"),
    "rank of BLAST that is no integer": (lambda: Blast((6, 8), (3, 2), 1.5), r"rank .* got 1\.5"),
    "grid of three": (lambda: KroneckerSum((6, 8), (3, 2, 1), 1), r"grid .* got \(3, 2, 1\)"),
    "grid of one": (lambda: Monarch((6, 8), 2), "grid .* got 2"),
    "grid of no integers": (lambda: Blast((6, 8), (3.0, 2), 1), r"grid .* got \(3\.0, 2\)"),
    "terms that are no integer": (lambda: KroneckerSum((6, 8), (3, 2), 1.5), r"terms .* 1\.5"),
    "elements that are no integer": (lambda: Equivariant((6, 9), 3.0), r"elements .* got 3\.0"),
    "states that are no integer": (lambda: DiagonalStateSpace((8, 8), 4.0), r"states .* 4\.0"),
    "states of HiPPO that are no integer": (lambda: hippo_legs(2.5), r"states .* got 2\.5"),
    "radix that is no integer": (lambda: butterfly_patterns((2, 3.0)), r"got \(2, 3\.0\)"),
    "bits of no integer": (lambda: bit_reversal(8.0), r"got 8\.0"),
    "mask in lists": (lambda: BlockSparse((6, 8), MASK.tolist()), "mask .* got list"),
    "empty blocks": (
        lambda: BlockSparse.largest(torch.ones(6, 8), (2, 0), 1),
        r"block .* \(2, 0\)",
    ),
    "blocks of no integers": (
        lambda: BlockSparse.largest(torch.ones(6, 8), (2, 2.0), 1),
        r"block .* got \(2, 2\.0\)",
    ),
    "blocks of a vector": (lambda: BlockSparse.largest(torch.ones(6), (2, 2), 1), "two axes"),
    "kept blocks that are no integer": (
        lambda: BlockSparse((6, 8), MASK).prune_and_grow(1.5),
        r"kept .* got 1\.5",
    ),
}


@pytest.mark.parametrize("build, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "dense, got",
    [
        (torch.ones(4, 4, dtype=torch.int64), r"torch\.int64"),
        (torch.ones(4, 4, dtype=torch.bool), r"torch\.bool"),
        ([[1.0, 0.0], [0.0, 1.0]], "list"),
    ],
    ids=("integers", "truth values", "lists"),
)
def test_what_is_no_matrix_has_no_projection(dense, got):
    with pytest.raises(TypeError, match=f"floating-point or complex numbers, got {got}"):
        Toeplitz.project(dense)


def test_a_product_of_two_is_that_of_their_lazy_matrices():
    left, right = LowRank((6, 8), 2), Toeplitz((8, 5))
    with pytest.raises(TypeError, match=r"got Toeplitz; W\.matrix\(\) has products"):
        left @ right
    near((left.matrix() @ right.matrix()).to_dense(), left.to_dense() @ right.to_dense())


def strided(dense, blocks):
    """Rows in strided order: what turns contiguous blocks into strided ones."""
    return dense.reshape(-1, blocks, dense.shape[1]).transpose(0, 1).reshape(dense.shape)


def is_in(dense, kind, **structure):
    return kind.project(dense, **structure).error < 1e-8


class TestLattice:
    """Section by section the containments of the chapter on the lattice, and where they stop."""

    def test_low_rank_is_blast_is_block_low_rank(self):
        low = LowRank((8, 12), 2).to_dense().detach()
        assert is_in(low, Blast, grid=(2, 3), rank=2)
        blast = Blast((8, 12), (2, 3), 2)
        torch.nn.init.normal_(blast.diagonals)
        dense = blast.to_dense().detach()
        assert is_in(dense, BlockLowRank, grid=(2, 3), rank=2)
        assert not is_in(dense, LowRank, rank=2)

    def test_block_low_rank_is_blast_of_more_rank(self):
        b, t = 3, 2
        source = BlockLowRank((6, 9), (b, b), t)
        target = Blast((6, 9), (b, b), b * t)
        with torch.no_grad():
            target.diagonals.zero_()
            for i in range(b):
                for j in range(b):
                    k = (i + j) % b  # a Latin square: each block uses components of its own
                    at = slice(k * t, (k + 1) * t)
                    target.diagonals[i, j, at] = 1
                    target.left[i, :, at] = source.left[i, :, j]
                    target.right[j, :, at] = source.right[j, :, i].T
        near(target.to_dense(), source.to_dense())

    def test_full_block_rank_is_everything(self):
        assert is_in(torch.randn(6, 8), BlockLowRank, grid=(2, 2), rank=3)
        assert not is_in(torch.randn(6, 8), BlockLowRank, grid=(2, 2), rank=2)

    def test_kronecker_products_are_monarch_in_strided_order_only(self):
        dense = KroneckerSum((8, 9), (2, 3), 1).to_dense().detach()
        assert is_in(strided(dense, 4), BlockLowRank, grid=(4, 3), rank=1)
        assert is_in(dense, Monarch, grid=(4, 3), rank=1)
        assert not is_in(dense, BlockLowRank, grid=(2, 3), rank=1)
        assert is_in(dense, Blast, grid=(2, 3), rank=3)
        two = KroneckerSum((8, 9), (2, 3), 2).to_dense().detach()
        assert is_in(two, Monarch, grid=(4, 3), rank=2)
        assert not is_in(two, Monarch, grid=(4, 3), rank=1)

    def test_quaternions(self):
        p, x = torch.randn(2, 4)
        matrix = torch.einsum("pyx,p->yx", hamilton(), p)
        near(matrix.T @ matrix, p @ p * torch.eye(4))
        a, b, c, d = p
        e, f, g, h = x
        expected = [a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g,
                    a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e]  # fmt: skip
        near(matrix @ x, torch.stack(expected))
        layer = torch.einsum("iab,ipq->apbq", hamilton(), torch.randn(4, 4, 4)).reshape(16, 16)
        assert is_in(layer, KroneckerSum, grid=(4, 4), terms=4)
        assert is_in(layer, KroneckerSum, grid=(2, 2), terms=2)
        assert not is_in(layer, KroneckerSum, grid=(8, 8), terms=3)

    def test_hadamard_is_a_butterfly_is_monarch_for_every_split(self):
        hadamard = torch.tensor(scipy.linalg.hadamard(32)).double()
        assert is_in(hadamard, Butterfly)
        dense = Butterfly((32, 32)).to_dense().detach()
        for high in (2, 4, 8, 16):
            assert is_in(dense, Monarch, grid=(32 // high, high))

    def test_fourier_is_a_butterfly_with_its_columns_in_bit_reversed_order_only(self):
        for bits in (3, 5):
            n = 2**bits
            fourier = torch.fft.fft(torch.eye(n).to(torch.complex128))
            order = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)]
            found = Butterfly.project(fourier[:, order])
            assert found.error < 1e-12
            assert all(factor.nnz == 2 * n for factor in found.matrix.factors())
            near(found.matrix.matrix().to_dense(), fourier[:, order])
            assert not is_in(fourier, Butterfly)

    @pytest.mark.parametrize("size", [2, 4, 64])
    def test_fourier_with_reversed_inputs_is_the_transform_and_trains(self, size):
        transform, order = Butterfly.fourier(size), bit_reversal(size)
        assert order.tolist() == [int(f"{i:b}".zfill(size.bit_length() - 1)[::-1], 2)
                                  for i in range(size)]  # fmt: skip
        x = torch.randn(3, size, dtype=transform.dtype)
        near(transform(x[:, order]), torch.fft.fft(x))
        transform(x).abs().sum().backward()
        assert transform.twiddle.grad.abs().sum() > 0

    def test_a_butterfly_with_empty_blocks_is_found_to_rounding(self):
        for seed in range(5):
            torch.manual_seed(seed)
            member = Butterfly((64, 64))
            with torch.no_grad():
                member.twiddle.mul_(torch.rand(member.twiddle.shape) > 0.3)
            assert Butterfly.project(member.to_dense().detach()).error < 1e-13

    def test_patterns_of_any_radix(self):
        for radices in ((2, 2, 2), (3, 5), (4, 2), (6,)):
            patterns = butterfly_patterns(radices)
            n = patterns[0].shape[0]
            for i, (pattern, radix) in enumerate(zip(patterns, radices, strict=True)):
                above = torch.eye(int(torch.tensor(radices[:i]).prod()) if i else 1)
                below = torch.eye(n // (len(above) * radix))
                expected = torch.kron(torch.kron(above, torch.ones(radix, radix)), below)
                near(pattern.fill(torch.ones(pattern.num_parameters)).to_dense(), expected)
        with_radix_two = SparseProduct((8, 8), butterfly_patterns((2, 2, 2)))
        assert with_radix_two.dof == Butterfly((8, 8)).dof

    @pytest.mark.parametrize("p, q", [(4, 6), (4, 8), (8, 8)])
    def test_the_fourier_matrix_is_monarch_with_its_columns_in_digit_order(self, p, q):
        n = p * q
        omega = torch.exp(-2j * torch.pi * torch.arange(n) / n)
        fourier = omega[torch.outer(torch.arange(n), torch.arange(n)) % n]
        columns = torch.arange(n).view(p, q).T.flatten()
        for part in (fourier, fourier[:, columns]):
            blocks = part.reshape(q, p, q, p).permute(
                1, 2, 0, 3
            )  # strided rows, contiguous columns
            rank = int(torch.linalg.matrix_rank(blocks).max())
            assert (rank == 1) == (part is not fourier)

    def test_a_circulant_is_toeplitz_and_no_monarch(self):
        dense = Circulant((16, 16)).to_dense().detach()
        assert is_in(dense, Toeplitz)
        assert not is_in(dense, Monarch, grid=(4, 4), rank=3)
        assert is_in(dense, Monarch, grid=(4, 4), rank=4)

    def test_state_space_blocks_below_the_diagonal_have_low_rank(self):
        dense = DiagonalStateSpace((24, 24), 4, "legs", 0.1).to_dense()
        ranks = [int(torch.linalg.matrix_rank(dense[i:, :i])) for i in range(1, 24)]
        assert max(ranks) == 4

    def test_an_equivariant_matrix_commutes_with_permutations(self):
        dense = Equivariant((10, 15), 5).to_dense()
        order = torch.randperm(5)
        shuffled = dense.reshape(5, 2, 5, 3)[order][:, :, order].reshape(10, 15)
        near(shuffled, dense)

    def test_block_diagonal_is_blast_and_block_sparse(self):
        dense = torch.block_diag(torch.randn(2, 3), torch.randn(2, 3))
        assert is_in(dense, BlockSparse, mask=torch.eye(2).bool())
        blast = Blast((4, 6), (2, 2), 2)
        with torch.no_grad():
            blast.diagonals.copy_(torch.eye(2)[..., None].expand(2, 2, 2))
            for i in range(2):
                blast.left[i] = torch.eye(2)
                blast.right[i] = dense[2 * i : 2 * i + 2, 3 * i : 3 * i + 3].T
        near(blast.to_dense(), dense)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99)
)
def test_block_low_rank_of_any_size(sizes, rank, batch, seed):
    a, c, b, d = sizes
    rank = min(rank, b, d)
    torch.manual_seed(seed)
    for kind in (BlockLowRank, Monarch):
        matrix = kind((a * b, c * d), (a, c), rank)
        x = torch.randn(batch, c * d)
        near(matrix(x), x @ matrix.matrix().to_dense().T)
        target = torch.randn(matrix.shape)
        tails = torch.linalg.svdvals(matrix._blocks(target))[..., rank:].square().sum()
        found = kind.project(target, grid=(a, c), rank=rank)
        near(torch.tensor(found.error**2), tails / target.square().sum())


@pytest.mark.parametrize("kept", range(1, 6))
def test_largest_blocks_lose_least_of_all_masks(kept):
    dense = torch.randn(4, 12)
    mask = BlockSparse.largest(dense, (2, 3), kept)
    assert mask.shape == (2, 4) and mask.sum() == kept
    best = BlockSparse.project(dense, mask=mask).error
    for chosen in combinations(range(8), kept):
        other = torch.zeros(8, dtype=torch.bool)
        other[list(chosen)] = True
        assert best <= BlockSparse.project(dense, mask=other.view(2, 4)).error + 1e-12


@pytest.mark.parametrize("block, kept", [((2, 5), 1), ((3, 3), 1), ((2, 3), 0), ((2, 3), 9)])
def test_blocks_that_cannot_be_kept_are_refused(block, kept):
    with pytest.raises(ValueError, match=f"{kept} blocks of .{block[0]}, {block[1]}.*4x12"):
        BlockSparse.largest(torch.randn(4, 12), block, kept)


def test_blast_is_never_worse_than_low_rank():
    for seed in range(3):
        target = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
        low = LowRank.project(target, rank=4)
        assert Blast.project(target, grid=(4, 4), rank=4).error < low.error


def test_state_space_scan_is_the_convolution():
    for kind in ("lin", "legs", "inv", "real"):
        matrix = DiagonalStateSpace((20, 20), 8, kind, 0.05)
        x = torch.randn(3, 20)
        near(matrix.scan(x), matrix(x))


def test_from_linear():
    dense = torch.nn.Linear(8, 6)
    layer = StructuredLinear.from_linear(dense, LowRank, rank=6)
    x = torch.randn(3, 8)
    near(layer(x), dense(x))
    assert (layer.in_features, layer.out_features) == (8, 6)
    near(layer.matrix().to_dense(), dense.weight)
