"""The tile product: exact schemes, errors in closed form, bounds, derivatives, conversion."""

from fractions import Fraction
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from sparsemat.structured import (
    AdaptedLinear,
    LowRank,
    StrassenTile,
    StrassenTileLinear,
    StructuredLinear,
    TileBases,
    TileSequential,
    Usv,
    brent_residuals,
    flattening_bound,
    kls_step,
    koszul_bound,
    koszul_flattening,
    matmul_tensor,
    multiply_adds,
    read_sms,
    tile_product,
)
from sparsemat.structured.tile_product import BLOCK_ROWS

product_module = import_module("sparsemat.structured.tile_product")  # the function has its name


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


EXACT = {
    "strassen": lambda: TileBases.strassen(),
    "strassen twice": lambda: TileBases.strassen(2),
    "naive 2x2": lambda: TileBases.naive(2),
    "naive 3x3": lambda: TileBases.naive(3),
    "naive 4x4": lambda: TileBases.naive(4),
    "strassen of naive": lambda: TileBases.strassen().nested(TileBases.naive(2)),
}
INEXACT = {
    "random": lambda: TileBases.random(24, generator=generator()),
    "pruned": lambda: TileBases.pruned(24, generator=generator()),
    "naive, 24 products": lambda: TileBases.naive(4, 24),
    "fitted": lambda: TileBases.fit(24, ridge=1e-2, sweeps=50, generator=generator()),
    "fitted, 2x2": lambda: TileBases.fit(5, tile=2, ridge=1e-2, sweeps=50, generator=generator()),
}


def integers(bases):
    arrays = (bases.encode, bases.encode_weight, bases.decode)
    arrays = [a.detach().numpy() for a in arrays]
    assert all((a == a.round()).all() for a in arrays)
    return [a.astype(np.int64) for a in arrays]


def reference(x, weight, encode, decode):
    """The definition, tile by tile."""
    t = round(encode.shape[1] ** 0.5)
    y = torch.zeros(*x.shape[:-1], t * weight.shape[2], dtype=x.dtype)
    for i in range(x.shape[-2] // t):
        for j in range(weight.shape[2]):
            total = 0
            for k in range(weight.shape[1]):
                tile = x[..., t * i : t * i + t, t * k : t * k + t].flatten(-2)
                total = total + (tile @ encode.T) * weight[:, k, j]
            at = (..., slice(t * i, t * i + t), slice(t * j, t * j + t))
            y[at] = (total @ decode.T).unflatten(-1, (t, t))
    return y


def operands(bases, rows, inner, outer, batch=()):
    t = bases.tile
    x = torch.randn(*batch, rows, t * inner)
    weight = torch.randn(bases.rank, inner, outer)
    return x, weight, bases.encode.detach(), bases.decode.detach()


class TestBases:
    @pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
    def test_exact_schemes_satisfy_every_brent_equation_in_integers(self, build):
        bases = build()
        residuals = brent_residuals(*integers(bases))
        assert residuals.shape == (bases.tile**2,) * 3
        assert not residuals.any()
        assert bases.error() == 0
        assert bases.row_leak() == 0

    def test_one_wrong_sign_breaks_the_brent_equations(self):
        encode, encode_weight, decode = integers(TileBases.strassen())
        for array in (encode, encode_weight, decode):
            at = tuple(np.argwhere(array)[0])
            array[at] *= -1
            assert brent_residuals(encode, encode_weight, decode).any()
            array[at] *= -1

    def test_brent_equations_take_fractions(self):
        encode, encode_weight, decode = integers(TileBases.strassen())
        third = Fraction(1, 3)
        scaled = encode.astype(object) * third, encode_weight, decode.astype(object) * 3
        assert not brent_residuals(*scaled).any()
        assert brent_residuals(encode.astype(object) * third, encode_weight, decode).any()

    @pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
    def test_exact_schemes_multiply(self, build):
        bases = build()
        t = bases.tile
        x, w = torch.randn(2 * t, 3 * t), torch.randn(3 * t, 2 * t)
        layer = StrassenTileLinear(3 * t, 2 * t, bases, bias=False)
        tiles = w.reshape(3, t, 2, t).permute(1, 3, 0, 2).reshape(t * t, 6)
        encoded = (bases.encode_weight @ tiles).reshape(-1, 3, 2)
        y = tile_product(x, encoded, bases.encode, bases.decode)
        torch.testing.assert_close(y, x @ w, rtol=0, atol=1e-12)
        assert layer.slab.weight.shape == encoded.shape

    @pytest.mark.parametrize("build", INEXACT.values(), ids=INEXACT)
    def test_error_energy_leak_and_noise_are_those_of_a_sample(self, build):
        bases = build()
        t, size = bases.tile, 200_000
        x, w = torch.randn(2, size, t, t, generator=generator(1))
        encoded = w.flatten(1) @ bases.encode_weight.T
        with torch.no_grad():
            y = ((x.flatten(1) @ bases.encode.T) * encoded @ bases.decode.T).view(size, t, t)
            exact = t * t * t  # mean squared norm of a product
            for found, closed in (
                ((y - x @ w).square().sum((1, 2)).mean() / exact, bases.error()),
                (y.square().sum((1, 2)).mean() / exact, bases.energy()),
            ):
                assert found == pytest.approx(closed, rel=0.02)
            noise = 0.1 * torch.randn_like(encoded) * bases.encode_weight.norm(dim=1)
            change = (x.flatten(1) @ bases.encode.T) * noise @ bases.decode.T
            assert change.square().sum(1).mean() / exact / 0.01 == pytest.approx(
                bases.cancellation(), rel=0.02
            )
            x[:, 1:] = 0  # what row 0 alone gives
            y = ((x.flatten(1) @ bases.encode.T) * encoded @ bases.decode.T).view(size, t, t)
            leak = y[:, 1:].square().sum() / y.square().sum()
            energy = bases.tensor().square().sum(1).view(t, t, t, t).sum((1, 3))
        assert leak == pytest.approx(float(1 - energy[0, 0] / energy[0].sum()), rel=0.02, abs=1e-9)
        share = 1 - energy.diagonal().sum() / energy.sum()
        assert bases.row_leak() == pytest.approx(float(share))

    def test_naive_products_are_a_mask_on_the_weight_tile(self):
        for s in (1, 6, 16):
            bases = TileBases.naive(4, 4 * s)
            assert bases.error() == pytest.approx(1 - s / 16)
            assert bases.row_leak() == 0
            assert (bases.encode_weight.sum(0) > 0).sum() == s

    def test_a_product_that_is_always_zero(self):
        zeros = TileBases(torch.zeros(3, 4), torch.ones(3, 4), torch.ones(4, 3))
        assert (zeros.row_leak(), zeros.energy(), zeros.error()) == (0, 0, 1)

    def test_decoder_after_pruning_is_the_best(self):
        bases = TileBases.pruned(24, generator=generator())
        exact = torch.as_tensor(matmul_tensor(4))
        error = (bases.tensor() - exact).square().sum()
        (gradient,) = torch.autograd.grad(error, bases.decode)
        assert gradient.abs().max() < 1e-12

    @pytest.mark.parametrize("build", INEXACT.values(), ids=INEXACT)
    def test_normalized_bases_have_unit_rows_and_the_same_tensor(self, build):
        bases = build()
        again = bases.normalized()
        torch.testing.assert_close(again.tensor(), bases.tensor())
        torch.testing.assert_close(again.encode.norm(dim=1), torch.ones(bases.rank))

    def test_a_fit_lowers_the_objective_and_a_ridge_bounds_the_factors(self):
        start = TileBases.random(24, generator=generator())
        errors = []
        for sweeps in (0, 1, 10, 100):
            fitted = TileBases.fit(24, ridge=1e-2, sweeps=sweeps, start=start)
            errors.append(fitted.error())
        assert errors == sorted(errors, reverse=True)
        loose = TileBases.fit(24, ridge=1e-6, sweeps=300, start=start)
        tight = TileBases.fit(24, ridge=1e-2, sweeps=300, start=start)
        assert loose.cancellation() > 10 * tight.cancellation()

    @pytest.mark.parametrize(
        "build, message",
        [
            (lambda: TileBases.naive(2, 9), "at most 8, got 9"),
            (lambda: TileBases.pruned(50), "at most 49, got 50"),
            (lambda: TileBases.strassen(0), "at least 1, got 0"),
            (lambda: TileBases.fit(5, ridge=0.0), "above 0 .*got 0.0"),
            (lambda: TileBases(torch.ones(3, 4), torch.ones(2, 4), torch.ones(4, 3)), r"\(2, 4\)"),
            (lambda: TileBases(*[torch.ones(3, 5)] * 2, torch.ones(5, 3)), "got 5"),
            (lambda: brent_residuals(*[np.ones((3, 4))] * 3), r"\(3, 4\)"),
            (lambda: multiply_adds(6, 8, 8, 7, 4), "tile=4 and rows=6"),
            (lambda: multiply_adds(4, 8, 8, 7, 0), "tile .* got 0"),
            (lambda: multiply_adds(4, 8, 8, 7, -2), "tile .* got -2"),
            (lambda: flattening_bound(4, -1), "rank .* got -1"),
            (lambda: koszul_bound(4, -1), "rank .* got -1"),
            (lambda: koszul_bound(4, 2, order=-1), "order .* got -1"),
            (lambda: matmul_tensor(-2), "tile .* got -2"),
            (lambda: TileBases.random(5, -2), "tile .* got -2"),
            (lambda: TileBases.random(5.5), r"rank .* got 5\.5"),
            (lambda: TileBases.naive(0), "tile .* got 0"),
            (lambda: TileBases.strassen(1.0), r"levels .* got 1\.0"),
            (
                lambda: TileBases(torch.ones(1, 4), torch.ones(1, 4).float(), torch.ones(4, 1)),
                r"one floating-point or complex type, .*float32",
            ),
            (lambda: TileBases(*torch.ones(3, 4)), r"\(r, t \* t\), got \(4,\)"),
            (lambda: koszul_bound(2, 3, order=2), "tile\\*\\*2=4, got order=2"),
        ],
    )
    def test_what_cannot_be_is_refused(self, build, message):
        with pytest.raises(ValueError, match=message):
            build()


def sms(matrix):
    """The text of a matrix of fractions, as schemes are published."""
    lines = [f"{i + 1} {j + 1} {v}" for (i, j), v in np.ndenumerate(matrix) if v]
    rows, cols = matrix.shape
    return "\n".join(["# a comment", f"{rows} {cols} R", "", *lines, "0 0 0", ""])


class TestPublishedSchemes:
    def test_a_scheme_comes_back_from_its_files_exactly(self, tmp_path):
        encode, encode_weight, decode = integers(TileBases.strassen(2))
        maps = encode * Fraction(1, 8), encode_weight * Fraction(-1, 2), decode * Fraction(-16)
        paths = [tmp_path / f"{name}.sms" for name in "LRP"]
        for path, matrix in zip(paths, maps, strict=True):
            path.write_text(sms(matrix))
            read = read_sms(path)
            assert (read == matrix).all()
            assert {type(v) for v in read.flat} == {Fraction}
        assert not brent_residuals(*map(read_sms, paths)).any()
        bases = TileBases.from_sms(*paths)
        assert (bases.rank, bases.tile, bases.error()) == (49, 4, 0)
        dense = torch.nn.Linear(8, 12)
        layer = StrassenTileLinear.from_linear(dense, bases)
        x = torch.randn(3, 8, 8)
        torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-10)

    @pytest.mark.parametrize(
        "text, message",
        [
            ("", "rows and columns, got nothing"),
            ("2 2 R\n1 1 1\n", "end with 0 0 0, got '1 1 1'"),
            ("2 2 R\n1 3 1\n0 0 0\n", r"line 2: .* 2x2, got \(1, 3\)"),
            ("2 2 R\n1 0 1\n0 0 0\n", r"line 2: .* got \(1, 0\)"),
            ("2 2 R\n1 1 1\n\n1 1 2\n0 0 0\n", r"line 4: .* once, got \(1, 1\)"),
            ("2 2 R\n1 1\n0 0 0\n", "line 2: .* 3 words, got 2"),
            ("2 2 R\n1 1 1/0\n0 0 0\n", "line 2: .*got '1 1 1/0'"),
            ("2 2 R\n1 1 half\n0 0 0\n", "line 2: .*got '1 1 half'"),
            ("2 2 R\n0 0 1\n1 1 1\n0 0 0\n", "line 2: the end must be 0 0 0, got '0 0 1'"),
            ("2 2 R\n1 1 1\n0 0 0\n\n1 2 1\n", "line 5: nothing must follow .*got '1 2 1'"),
            ("2 2 R\n0 0 0\n0 0 0\n", "line 3: nothing must follow 0 0 0, got '0 0 0'"),
        ],
    )
    def test_a_file_of_another_form_is_refused(self, text, message, tmp_path):
        path = tmp_path / "bad.sms"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_sms(path)


class TestBounds:
    def test_flattenings_of_the_tensor_have_equal_singular_values(self):
        for t in (2, 3, 4):
            for axis in range(3):
                flat = np.moveaxis(matmul_tensor(t), axis, 0).reshape(t * t, -1)
                assert np.linalg.svd(flat, compute_uv=False) == pytest.approx([t**0.5] * t * t)

    def test_koszul_norm_and_rank_of_a_rank_one_tensor(self):
        rng = np.random.default_rng(0)
        a, b, c = rng.standard_normal(7), rng.standard_normal(4), rng.standard_normal(5)
        tensor = np.einsum("a,b,c->abc", a, b, c)
        flat = koszul_flattening(tensor, 3)
        assert flat.shape == (35 * 5, 35 * 4)
        assert np.linalg.matrix_rank(flat) == 20
        assert (flat**2).sum() == pytest.approx(20 * (tensor**2).sum())

    def test_koszul_says_that_strassen_is_optimal_to_border_rank_six(self):
        assert koszul_bound(2, 6, order=1) == pytest.approx(0, abs=1e-12)
        assert koszul_bound(2, 5, order=1) > 1e-3

    @pytest.mark.parametrize("rank", [8, 16, 24, 27])
    def test_no_scheme_found_lies_below_the_bounds(self, rank):
        floor = max(flattening_bound(4, rank), koszul_bound(4, rank))
        assert floor > 0
        for build in (TileBases.random, TileBases.pruned):
            bases = build(rank, generator=generator())
            fitted = TileBases.fit(rank, ridge=1e-4, sweeps=200, start=bases)
            assert floor < fitted.error() <= bases.error()

    def test_koszul_is_silent_where_schemes_exist(self):
        assert koszul_bound(4, 49) == 0


SIZES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 20))


class TestProduct:
    @settings(max_examples=40, deadline=None)
    @given(SIZES, SIZES, st.integers(0, 99))
    def test_the_definition_at_any_size(self, first, second, seed):
        (t, rank, rows), (inner, outer, batch) = first, (*second[:2], second[2] % 3)
        torch.manual_seed(seed)
        x = torch.randn(*([batch] if batch else []), t * rows, t * inner)
        weight, encode = torch.randn(rank, inner, outer), torch.randn(rank, t * t)
        decode = torch.randn(t * t, rank)
        y = tile_product(x, weight, encode, decode)
        torch.testing.assert_close(y, reference(x, weight, encode, decode), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("rows", [0, 4, 200, BLOCK_ROWS, 2 * BLOCK_ROWS + 20])
    @pytest.mark.parametrize("inner, outer", [(3, 2), (2, 5)])
    def test_blocks_of_rows_with_and_without_gradients(self, rows, inner, outer, monkeypatch):
        monkeypatch.setattr(product_module, "STRIP_ENTRIES", 100)
        given_ = operands(TileBases.random(24, generator=generator()), rows, inner, outer)
        expected = reference(*given_)
        torch.testing.assert_close(tile_product(*given_), expected)
        recorded = [g.clone().requires_grad_() for g in given_]
        torch.testing.assert_close(tile_product(*recorded).detach(), expected)
        with torch.no_grad():
            torch.testing.assert_close(tile_product(*recorded), expected)
        by_columns = given_[0].T.contiguous().T
        torch.testing.assert_close(tile_product(by_columns, *given_[1:]), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("tile", [1, 2, 4])
    @pytest.mark.parametrize("place", [0, 1, 4])
    def test_types_and_places_in_memory(self, dtype, tile, place, monkeypatch):
        monkeypatch.setattr(product_module, "STRIP_ENTRIES", 20)
        bases = TileBases.random(5, tile, generator())
        x, *rest = operands(bases, 8, 3, 2)
        memory = torch.zeros(x.numel() + place)
        memory[place:] = x.flatten()
        moved = memory.to(dtype)[place:].view(x.shape)
        found = tile_product(moved, *(r.to(dtype) for r in rest))
        assert found.dtype == dtype
        error = (found.double() - reference(x, *rest)).norm() / reference(x, *rest).norm()
        assert error < 10 * torch.finfo(dtype).eps

    def test_transforms_where_no_gradient_is_recorded(self, monkeypatch):
        monkeypatch.setattr(product_module, "STRIP_ENTRIES", 20)
        x, *rest = operands(TileBases.random(5, 2, generator()), 8, 3, 2)
        tangent = torch.randn_like(x)
        expected = tile_product(tangent, *rest)
        with torch.no_grad():
            _, found = torch.func.jvp(lambda x: tile_product(x, *rest), (x,), (tangent,))
            torch.testing.assert_close(found, expected)
            with forward_ad.dual_level():
                y = tile_product(forward_ad.make_dual(x, tangent), *rest)
                torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, expected)
            mapped = torch.vmap(lambda x: tile_product(x, *rest))(torch.stack([x, tangent]))
        torch.testing.assert_close(mapped[1], expected)

    def test_gradients_and_their_gradients(self):
        given_ = operands(TileBases.random(5, 2, generator()), 4, 2, 2, (2,))
        given_ = [g.clone().requires_grad_() for g in given_]
        assert torch.autograd.gradcheck(tile_product, given_, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(tile_product, given_)

    def test_the_backward_pass_is_a_tile_product_with_roles_permuted(self):
        bases = TileBases.random(24, generator=generator())
        x, weight, encode, decode = operands(bases, 8, 3, 2)
        x.requires_grad_()
        y = tile_product(x, weight, encode, decode)
        g = torch.randn_like(y)
        (expected,) = torch.autograd.grad(y, x, g)
        ours = tile_product(g, weight.transpose(1, 2), decode.T.contiguous(), encode.T.contiguous())
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)

    def test_operations_are_those_that_torch_counts(self):
        bases = TileBases.random(24, generator=generator())
        with FlopCounterMode(display=False) as counter:
            tile_product(*operands(bases, 200, 3, 5))
        assert counter.get_total_flops() == 2 * multiply_adds(200, 12, 20, 24, 4)

    def test_autocast(self):
        bases = TileBases.random(24, generator=generator()).float()
        x, weight, encode, decode = (g.float() for g in operands(bases, 8, 3, 2))
        exact = tile_product(x, weight, encode, decode)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = tile_product(x, weight, encode, decode)
        assert rounded.dtype == torch.bfloat16
        assert (rounded.float() - exact).norm() < 0.02 * exact.norm()

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda x, w, e, d: (x[:3], w, e, d), r"multiple of the tile 4, got \(3, 12\)"),
            (lambda x, w, e, d: (x[:, :8], w, e, d), r"\(..., rows, 12\).*got \(8, 8\)"),
            (lambda x, w, e, d: (x, w[:5], e, d), r"r=24, got \(5, 3, 2\)"),
            (lambda x, w, e, d: (x, w, e, d.T), r"\(24, 16\) and \(24, 16\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change, message):
        given_ = operands(TileBases.random(24, generator=generator()), 8, 3, 2)
        with pytest.raises(ValueError, match=message):
            tile_product(*change(*given_))


class TestLayer:
    def test_exact_bases_contain_every_dense_layer(self):
        dense = torch.nn.Linear(24, 16)
        layer = StrassenTileLinear.from_linear(dense, TileBases.strassen(2))
        x = torch.randn(2, 8, 24)
        torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=1e-10)
        slab = torch.kron(torch.eye(4), dense.weight)
        torch.testing.assert_close(layer.matrix().to_dense(), slab, rtol=0, atol=1e-10)

    def test_an_error_of_the_slab_is_the_error_for_white_inputs(self):
        dense = torch.nn.Linear(24, 16, bias=False)
        layer = StrassenTileLinear.from_linear(dense, TileBases.pruned(24, generator=generator()))
        x = torch.randn(40_000, 24)
        found = (layer(x) - dense(x)).square().sum().item() / len(x)
        slab = layer.slab.to_dense() - torch.kron(torch.eye(4), dense.weight)
        assert found == pytest.approx(slab.square().sum().item() / 4, rel=0.02)

    def test_a_fit_to_inputs_is_the_best_on_them(self):
        dense = torch.nn.Linear(16, 12)
        x = torch.randn(4, 100, 16) @ torch.randn(16, 16)
        for name, build in INEXACT.items():
            if name == "fitted, 2x2":
                continue
            bases = build()
            white = StrassenTileLinear.from_linear(dense, bases)
            fitted = StrassenTileLinear.from_linear(dense, bases, x)
            loss = (fitted(x) - dense(x)).square().sum()
            assert loss < (white(x) - dense(x)).square().sum()
            (gradient,) = torch.autograd.grad(loss, fitted.slab.weight)
            assert gradient.abs().max() < 1e-3 * x.square().sum().sqrt()

    def test_the_start_keeps_the_variance_of_a_dense_layer(self):
        for build in INEXACT.values():
            layer = StrassenTileLinear(256, 256, build(), bias=False)
            dense = torch.nn.Linear(256, 256, bias=False)
            x = torch.randn(4096, 256)
            assert layer(x).std().item() == pytest.approx(float(dense(x).std()), rel=0.05)

    def test_tokens_that_do_not_fill_a_tile(self):
        layer = StrassenTileLinear(8, 8, TileBases.random(24, generator=generator()))
        x = torch.randn(3, 6, 8)
        filled = torch.cat([x, torch.zeros(3, 2, 8)], 1)
        torch.testing.assert_close(layer(x), layer(filled)[:, :6])
        # samples never share a tile
        torch.testing.assert_close(layer(x)[1], layer(x[1]))

    def test_rows_of_a_tile_mix_unless_the_product_is_exact(self):
        x = torch.randn(8, 8)
        changed = x.clone()
        changed[3] += 1  # a later token
        for bases, mixes in (
            (TileBases.strassen(2), False),
            (TileBases.naive(4, 24), False),
            (TileBases.random(24, generator=generator()), True),
            (TileBases.pruned(24, generator=generator()), True),
        ):
            layer = StrassenTileLinear.from_linear(torch.nn.Linear(8, 8), bases)
            change = (layer(changed) - layer(x)).abs().amax(1)
            assert (change[0] > 1e-3) == mixes
            assert change[4:].max() == 0

    def test_layers_share_bases(self):
        bases = TileBases.random(24, generator=generator())
        network = torch.nn.Sequential(
            StrassenTileLinear(8, 8, bases), torch.nn.ReLU(), StrassenTileLinear(8, 8, bases)
        )
        count = sum(p.numel() for p in network.parameters())
        assert count == 2 * (24 * 4 + 8) + 2 * 24 * 16
        network(torch.randn(4, 8)).sum().backward()
        assert bases.encode.grad.abs().max() > 0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex128], ids=str)
    def test_bases_that_others_share_are_not_rounded(self, dtype):
        bases, x = TileBases.random(24, generator=generator()), torch.randn(4, 8)
        other, dense = StrassenTileLinear(8, 8, bases), torch.nn.Linear(8, 8).to(dtype)
        before = other(x)
        refused = rf"one type, .* got torch\.float64 and {dtype}|real matrix .* got {dtype}"
        with pytest.raises((ValueError, TypeError), match=refused):
            StrassenTileLinear.from_linear(dense, bases)
        with pytest.raises((ValueError, TypeError), match=refused):
            StrassenTile.project(torch.zeros(32, 32, dtype=dtype), bases=bases)
        assert torch.equal(other(x), before)

    def test_inputs_to_fit_to_must_be_rows_of_its_features_and_not_all_zero(self):
        dense, bases = torch.nn.Linear(16, 12), TileBases.pruned(24, generator=generator())
        for inputs, message in (
            (torch.zeros(2, 8, 16), r"not all be zero.*\(24, 4, 4\) with 0"),
            (torch.zeros(0, 16), r"not all be zero.*\(24, 0, 4\)"),
            (torch.randn(4, 32), r"in_features=16, got \(4, 32\)"),
            (torch.randn(16), r"in_features=16, got \(16,\)"),
        ):
            with pytest.raises(ValueError, match=message):
                StrassenTileLinear.from_linear(dense, bases, inputs)

    def test_sizes_are_named(self):
        bases = TileBases.strassen(2)
        with pytest.raises(ValueError, match="in_features=8 and out_features=6"):
            StrassenTileLinear(8, 6, bases)
        with pytest.raises(ValueError, match=r"in_features=8, got \(8,\)"):
            StrassenTileLinear(8, 8, bases)(torch.randn(8))


class TestSequence:
    @staticmethod
    def layers(bias=True):
        bases = [TileBases.random(r, generator=generator(r)) for r in (24, 7, 16)]
        sizes = (8, 12), (12, 20), (20, 4)
        own = [StrassenTileLinear(*s, b, bias) for s, b in zip(sizes, bases, strict=True)]
        for layer in own:
            for parameter in layer.parameters():
                torch.nn.init.normal_(parameter)
        return own[0], torch.nn.ReLU(), own[1], torch.nn.Sigmoid(), own[2]

    @pytest.mark.parametrize(
        "shape", [(8, 8), (3, 8, 8), (2, 3, 6, 8), (5, 1, 8), (2, BLOCK_ROWS + 6, 8)]
    )
    @pytest.mark.parametrize("bias", [True, False])
    def test_it_is_the_layers_one_after_another(self, shape, bias):
        layers = self.layers(bias)
        kept, plain = TileSequential(*layers), torch.nn.Sequential(*layers)
        x = torch.randn(*shape, requires_grad=True)
        found, expected = kept(x), plain(x)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(kept(x), expected, rtol=1e-9, atol=1e-9)
        inputs = x, *kept.parameters()
        slope = torch.randn_like(expected)
        found = torch.autograd.grad(found, inputs, slope)
        expected = torch.autograd.grad(expected, inputs, slope)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-8)
        assert kept.state_dict().keys() == plain.state_dict().keys()

    @pytest.mark.parametrize("shape", [(8, 8), (2, 3, 6, 8), (2, BLOCK_ROWS + 6, 8)])
    @pytest.mark.parametrize("recorded", [True, False])
    def test_dropout_drops_the_same_entries(self, shape, recorded):
        first, relu, second, sigmoid, last = self.layers()
        dropout = torch.nn.Dropout(0.3), torch.nn.Dropout(0.6)
        layers = dropout[0], first, relu, dropout[1], second, sigmoid, last, dropout[0]
        kept, plain = TileSequential(*layers), torch.nn.Sequential(*layers)
        x = torch.randn(*shape, requires_grad=recorded)
        found = []
        with torch.set_grad_enabled(recorded):
            for network in (kept, plain):
                torch.manual_seed(5)
                found.append(network(x))
        assert (found[0] == 0).any()
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
        kept.eval()
        torch.testing.assert_close(kept(x), plain(x), rtol=1e-9, atol=1e-9)

    def test_what_acts_on_whole_rows_is_refused(self):
        first, relu, second, _, last = self.layers()
        for layers, error, message in (
            ((first, torch.nn.LayerNorm(12), second), TypeError, "LayerNorm as layer 1"),
            ((first, torch.nn.Linear(12, 4)), TypeError, "Linear as layer 1"),
            ((relu,), ValueError, "got 1 layers without one"),
            ((first, last), ValueError, "in_features=20 after tile=4 and out_features=12"),
        ):
            with pytest.raises(error, match=message):
                TileSequential(*layers)
        kept = TileSequential(first, relu, second)
        kept[1] = torch.nn.Softmax(-1)
        with pytest.raises(TypeError, match="Softmax as layer 1"):
            kept(torch.randn(4, 8))
        with pytest.raises(ValueError, match=r"in_features=8, got \(4, 12\)"):
            TileSequential(first)(torch.randn(4, 12))


class TestAdapters:
    def test_an_adapter_starts_at_the_dense_layer_and_merges(self):
        x = torch.randn(3, 12)
        for build in (
            lambda d: AdaptedLinear.lora(d, 2),
            lambda d: AdaptedLinear.kronecker(d, [(4, 3)]),
            lambda d: AdaptedLinear.kronecker(d, [(4, 3), (2, 6)]),
        ):
            dense = torch.nn.Linear(12, 8)
            expected = dense(x).detach()
            adapted = build(dense)
            torch.testing.assert_close(adapted(x), expected)
            trained = [p for p in adapted.parameters() if p.requires_grad]
            assert dense.weight not in set(trained)
            optimizer = torch.optim.SGD(trained, 0.1)
            for _ in range(3):
                optimizer.zero_grad()
                adapted(x).square().sum().backward()
                optimizer.step()
            assert (adapted(x) - expected).abs().max() > 1e-3
            torch.testing.assert_close(adapted.merged()(x), adapted(x))
            torch.testing.assert_close(dense(x), expected)  # the frozen layer has not moved

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match=r"\(8, 12\), got \[\(12, 8\)\]"):
            AdaptedLinear(torch.nn.Linear(12, 8), [LowRank((12, 8), 2)])


class TestRankAdaptive:
    def test_one_step_is_that_of_the_formulas(self):
        matrix = Usv((7, 5), 2)
        u, s, v = (p.detach().clone() for p in (matrix.left, matrix.core, matrix.right))
        target = torch.randn(7, 5)

        def gradient(w):
            return w - target

        kls_step(matrix, lambda: 0.5 * (matrix.to_dense() - target).square().sum(), 0.3)
        g = gradient(u @ s @ v.T)
        u1 = torch.linalg.qr(torch.cat([u @ s - 0.3 * g @ v, u], 1))[0]
        v1 = torch.linalg.qr(torch.cat([v @ s.T - 0.3 * g.T @ u, v], 1))[0]
        core = u1.T @ u @ s @ v.T @ v1
        torch.testing.assert_close(u1 @ core @ v1.T, u @ s @ v.T)
        core = core - 0.3 * u1.T @ gradient(u1 @ core @ v1.T) @ v1
        p, sigma, q = torch.linalg.svd(core)
        expected = u1 @ p[:, :2] @ sigma[:2].diag() @ q[:2] @ v1.T
        torch.testing.assert_close(matrix.to_dense(), expected)

    def test_the_rank_falls_to_that_of_the_target(self):
        u, v = (torch.linalg.qr(torch.randn(n, 3))[0] for n in (40, 30))
        target = u @ torch.tensor([1.0, 0.1, 0.01]).diag() @ v.T
        layer = StructuredLinear(Usv((40, 30), 8))

        def loss():
            return 0.5 * (layer.weight.to_dense() - target).square().sum()

        for _ in range(60):
            value = kls_step(layer, loss, 0.5, tolerance=1e-3)
        assert layer.weight.rank == 3
        assert value < 1e-12
        left = layer.weight.left
        torch.testing.assert_close(left.T @ left, torch.eye(3))
        assert layer.matrix().to_dense().shape == (40, 30)

    def network(self):
        parts = torch.nn.Linear(7, 7), StructuredLinear(Usv((5, 7), 2)), torch.nn.Linear(5, 1)
        return torch.nn.Sequential(*parts)

    def test_the_structure_says_the_rank_that_is_there(self):
        network, x = self.network(), torch.randn(9, 7)
        for rank in (4, 5):
            kls_step(network, lambda: (network(x) - x[:, :1]).square().mean(), 0.1, tolerance=0)
            matrix = network[1].weight
            assert matrix.structure == {"rank": rank} and f"rank={rank}" in repr(matrix)
            again = Usv(matrix.shape, **matrix.structure)
            again.load_state_dict(matrix.state_dict())
            assert torch.equal(again.to_dense(), matrix.to_dense())

    @pytest.mark.parametrize("call", [1, 2])
    @pytest.mark.parametrize("with_gradients", [False, True])
    def test_a_step_that_fails_changes_nothing(self, call, with_gradients):
        network, x, calls = self.network(), torch.randn(9, 7), []
        parameters = dict(network.named_parameters())
        if with_gradients:
            network(x).sum().backward()
        values = {name: p.detach().clone() for name, p in parameters.items()}
        grads = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}

        def loss():
            calls.append(len(calls) + 1)
            if calls[-1] == call:
                raise RuntimeError("no loss today")
            return network(x).square().mean()

        with pytest.raises(RuntimeError, match="no loss today"):
            kls_step(network, loss, 0.1)
        assert calls[-1] == call and network[1].weight.structure == {"rank": 2}
        for name, p in network.named_parameters():
            assert p is parameters[name] and torch.equal(p, values[name])
            assert (p.grad is None) == (name not in grads)
            assert p.grad is None or torch.equal(p.grad, grads[name])

    def test_what_is_frozen_or_unused_stays_as_it_is(self):
        network, x = self.network(), torch.randn(9, 7)
        frozen, unused = (StructuredLinear(Usv((7, 7), 2)) for _ in range(2))
        network.insert(0, frozen.requires_grad_(False))
        network.unused = unused
        kept = [(p, p.detach().clone()) for part in (frozen, unused) for p in part.parameters()]

        def loss():
            return torch.nn.Sequential(*network[:4])(x).square().mean()

        before, moving = loss().item(), network[2].weight.to_dense()
        kls_step(network, loss, 0.1, tolerance=0)
        assert loss().item() < before and not torch.equal(network[2].weight.to_dense(), moving)
        now = [p for part in (frozen, unused) for p in part.parameters()]
        for (old, value), new in zip(kept, now, strict=True):
            assert new is old and torch.equal(new, value)
        assert unused.weight.structure == {"rank": 2}

    def test_what_cannot_take_a_step_is_refused(self):
        def partly(matrix):
            matrix.core.requires_grad_(False)

        def stretched(matrix):
            matrix.right.data.mul_(2)

        changes = {
            r"1.weight .* as a whole or frozen, got \['core'\]": partly,
            "1.weight.right must have orthonormal columns to .*, got an error of 3": stretched,
            "network must hold a Usv to train, got none in Sequential": lambda matrix: (
                matrix.requires_grad_(False)
            ),
        }
        for message, change in changes.items():
            network = self.network()
            change(network[1].weight)
            with pytest.raises(ValueError, match=message):
                kls_step(network, lambda: pytest.fail("no work before the check"), 0.1)
        network = torch.nn.ModuleList([Usv((5, 7), 2), Usv((5, 7), 2)])
        network[1].left = network[0].left
        with pytest.raises(ValueError, match=r"0 must have .* its own, got \['left'\] shared"):
            kls_step(network, lambda: pytest.fail("no work before the check"), 0.1)
        with pytest.raises(TypeError, match=r"must be real, got torch\.complex128"):
            kls_step(Usv.project(torch.ones(5, 7) + 1j, rank=2).matrix, torch.ones, 0.1)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30], ids="{:g}".format)
    def test_the_rank_is_cut_alike_at_every_scale(self, scale):
        matrix = Usv((6, 6), 4).float()
        core = torch.tensor([1.0, 0.5, 0.1, 0.001]).diag() * scale
        matrix.core.data.copy_(core)
        kls_step(matrix, lambda: (matrix.to_dense() / scale).sum(), 0.0, tolerance=0.01)
        assert matrix.rank == 3
