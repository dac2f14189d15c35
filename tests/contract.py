"""What every layer keeps, whatever its pattern: inherit, and name the cases."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsemat import Pattern, SparseMatrix

# relative to the largest entry compared
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Case(NamedTuple):
    """A layer, torch's module with the same parameters, and the shape of one input."""

    layer: torch.nn.Module
    reference: Callable[[torch.Tensor], torch.Tensor]
    shape: tuple[int, ...]


def _derivable(is_reference):
    """Torch's own attention has derivatives of every order by plain operations only."""
    return sdpa_kernel(SDPBackend.MATH) if is_reference else nullcontext()


def assert_near(actual, expected):
    assert actual.shape == expected.shape
    scale = expected.abs().max().item() if expected.numel() else 1
    atol = TOLERANCE[actual.dtype.to_real()] * max(scale, 1)
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=atol)


class LayerContract:
    """Tests of a layer kind; a subclass has ``cases`` and says what the matrix at an input is.

    ``cases`` maps a readable id to a function of a dtype that builds a :class:`Case`.
    """

    cases: dict[str, Callable[[torch.dtype], Case]]
    takes_complex = False  # as torch's layer does
    same_parameters = True  # as torch's module, so that their gradients compare

    def matrix(self, layer: torch.nn.Module, x: torch.Tensor) -> SparseMatrix:
        """The matrix of the layer at one input."""
        return layer.matrix()

    def pytest_generate_tests(self, metafunc):
        if "build" in metafunc.fixturenames:
            metafunc.parametrize("build", self.cases.values(), ids=self.cases)

    def inputs(self, case, dtype=torch.float64, number=3):
        generator = torch.Generator().manual_seed(1)
        return torch.randn(number, *case.shape, generator=generator, dtype=torch.float64).to(dtype)

    @pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
    def test_forward_is_that_of_torch(self, build, dtype):
        case = build(dtype)
        wide = deepcopy(case.reference)
        if dtype == torch.bfloat16 and isinstance(wide, torch.nn.Module):
            wide = wide.float()  # the same rounded parameters, exact sums
        x = self.inputs(case, dtype)
        expected = wide(x.float() if dtype == torch.bfloat16 else x)
        actual = case.layer(x)
        assert actual.dtype == dtype
        assert_near(actual, expected)

    def test_one_input_needs_no_batch_axis(self, build):
        case = build(torch.float64)
        x = self.inputs(case)
        assert_near(case.layer(x[0]), case.reference(x)[0])

    def test_an_empty_batch_gives_an_empty_batch(self, build):
        case = build(torch.float64)
        x = self.inputs(case, number=2)
        assert case.layer(x[:0]).shape == (0, *case.reference(x).shape[1:])

    def test_an_empty_batch_may_be_traced(self, build):
        case = build(torch.float32)
        case.layer.prepare()
        x = self.inputs(case, torch.float32, number=2)
        with FakeTensorMode(allow_non_fake_inputs=True):
            shape = case.layer(torch.empty(0, *x.shape[1:])).shape
        assert shape == (0, *case.reference(x).shape[1:])

    def test_the_layout_of_the_input_does_not_matter(self, build):
        case = build(torch.float64)
        x = self.inputs(case)
        features_first = x.flatten(1).t().contiguous().t().view(x.shape)
        assert_near(case.layer(features_first), case.reference(x))

    def test_the_matrix_is_the_jacobian_of_torch(self, build):
        case = build(torch.float64)
        x = self.inputs(case)[0]
        jacobian = torch.autograd.functional.jacobian(lambda x: case.reference(x[None])[0], x)
        expected = jacobian.reshape(-1, x.numel())
        assert_near(self.matrix(case.layer, x).to(torch.float64).to_dense(), expected)

    def test_adjoint(self, build):
        case = build(torch.float64)
        x = self.inputs(case)[0]
        w = self.matrix(case.layer, x).to(torch.float64)
        x, y = x.reshape(-1), torch.randn(w.shape[0], dtype=torch.float64)
        assert_near((w @ x) @ y, x @ (w.T @ y))

    def test_transpose(self, build):
        case = build(torch.float64)
        w = self.matrix(case.layer, self.inputs(case)[0])
        assert torch.equal(w.T.to_dense(), w.to_dense().T)

    def test_duplicate_triples_accumulate(self, build):
        case = build(torch.float64)
        x = self.inputs(case)[0]
        w = self.matrix(case.layer, x).to(torch.float64)
        p = w.pattern
        row, col, index = (np.tile(side, 2) for side in (p.row, p.col, p.index))
        twice = Pattern(p.shape, row, col, index, p.num_parameters).fill(w.theta)
        assert_near(twice @ x.reshape(-1), 2 * (w.to_dense() @ x.reshape(-1)))

    def test_gradients_are_those_of_torch(self, build):
        case = build(torch.float64)
        mine, theirs = (self.inputs(case).requires_grad_() for _ in range(2))
        expected = case.reference(theirs)
        weights = torch.randn(expected.shape, dtype=torch.float64)
        (case.layer(mine) * weights).sum().backward()
        (expected * weights).sum().backward()
        assert_near(mine.grad, theirs.grad)
        self.assert_parameter_gradients(case)

    def losses(self, case, module):
        """The loss of one input as a function of it and of the parameters."""
        parameters = {name: value.detach() for name, value in module.named_parameters()}

        def loss(x, parameters):
            y = torch.func.functional_call(module, parameters, (x[None],))
            return (y.sin() * torch.linspace(1, 2, y.numel()).to(y).view_as(y)).sum()

        return loss, parameters

    def test_second_derivatives_are_those_of_torch(self, build):
        """Gradients of a gradient penalty; the Hessian would be the same, more slowly."""
        case = build(torch.float64)
        results = []
        for module in (case.layer, case.reference):
            x = self.inputs(case, number=2).requires_grad_()
            leaves = [x, *(module.parameters() if self.same_parameters else ())]
            with _derivable(module is case.reference):
                first = torch.autograd.grad(module(x).sin().sum(), leaves, create_graph=True)
                penalty = sum(side.square().sum() for side in first)
                second = torch.autograd.grad(penalty, leaves, allow_unused=True)
            results.append([*first, *(s for s in second if s is not None)])
        assert len(results[0]) == len(results[1])
        for mine, theirs in zip(*results, strict=True):
            assert_near(mine, theirs)

    def test_transforms_agree_with_torch(self, build):
        """Gradients of each sample, and Jacobians in both modes, by torch.func."""
        case = build(torch.float64)
        x, results = self.inputs(case), []
        for module in (case.layer, case.reference):
            loss, parameters = self.losses(case, module)
            with _derivable(module is case.reference):
                samples = torch.func.vmap(torch.func.grad(loss, (0, 1)), (0, None))(x, parameters)
                jacobians = [
                    jacobian(lambda x, module=module: module(x[None])[0])(x[0])
                    for jacobian in (torch.func.jacrev, torch.func.jacfwd)
                ]
            parameters = samples[1].values() if self.same_parameters else ()
            results.append([samples[0], *parameters, *jacobians])
        for mine, theirs in zip(*results, strict=True):
            assert_near(mine, theirs)

    def test_export_keeps_the_numbers(self, build):
        case = build(torch.float64)
        x, more = self.inputs(case), self.inputs(case, number=5)
        batch = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(case.layer, (x,), dynamic_shapes=batch).module()
        assert_near(program(more), case.reference(more))
        assert_near(case.layer(more), case.reference(more))  # nothing was left behind in the layer

    def test_compiled_without_a_break(self, build):
        if build is not next(iter(self.cases.values())):
            pytest.skip("one case a kind: compiling takes seconds")
        case = build(torch.float64)
        compiled = torch.compile(case.layer, fullgraph=True, backend="aot_eager")
        mine, theirs = (self.inputs(case).requires_grad_() for _ in range(2))
        y, expected = compiled(mine), case.reference(theirs)
        assert_near(y, expected)
        y.sin().sum().backward()
        expected.sin().sum().backward()
        assert_near(mine.grad, theirs.grad)
        self.assert_parameter_gradients(case)

    def test_complex_numbers_are_those_of_torch(self, build):
        """Values, and gradients with their conjugates; the matrix's adjoint too."""
        if not self.takes_complex:
            pytest.skip("torch's own layer takes no complex numbers")
        case = build(torch.complex128)
        generator = torch.Generator().manual_seed(2)
        x = torch.randn(3, *case.shape, dtype=torch.complex128, generator=generator)
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = case.layer(mine), case.reference(theirs)
        assert_near(y, expected)
        weights = torch.randn(y.shape, dtype=y.dtype, generator=generator)
        for output in (y, expected):
            ((output * weights).real + output.abs().square()).sum().backward()
        assert_near(mine.grad, theirs.grad)
        self.assert_parameter_gradients(case)
        matrix = self.matrix(case.layer, x[0]).to(torch.complex128).detach()
        assert_near(matrix.H.to_dense(), matrix.to_dense().mH.resolve_conj())

    def test_inference_before_training_changes_nothing(self, build):
        case = build(torch.float64)
        x, expected = (self.inputs(case).requires_grad_() for _ in range(2))
        with torch.inference_mode():
            case.layer(x)
        case.layer(x).sum().backward()
        case.reference(expected).sum().backward()
        assert_near(x.grad, expected.grad)

    def test_the_backward_pass_may_run_inside_autocast(self, build):
        gradients = []
        for inside in (False, True):
            case = build(torch.float32)
            x = self.inputs(case, torch.float32).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16):
                loss = case.layer(x).float().square().sum()
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
            gradients.append([x.grad, *(p.grad for p in case.layer.parameters())])
        for outside, inside in zip(*gradients, strict=True):
            scale = outside.abs().max().item()
            torch.testing.assert_close(inside, outside, rtol=0, atol=2e-2 * max(scale, 1))

    def test_shapes_without_data(self, build):
        case = build(torch.float32)
        x = self.inputs(case, torch.float32)
        assert deepcopy(case.layer).to("meta")(x.to("meta")).shape == case.reference(x).shape
        assert_near(case.layer(x), case.reference(x))

    def assert_parameter_gradients(self, case):
        theirs = dict(case.reference.named_parameters())
        assert theirs.keys() == dict(case.layer.named_parameters()).keys()
        for name, parameter in case.layer.named_parameters():
            assert_near(parameter.grad, theirs[name].grad)

    def test_state_loads_across(self, build):
        case = build(torch.float64)
        x = self.inputs(case)
        with torch.no_grad():
            for parameter in case.reference.parameters():
                parameter.mul_(2).add_(0.1)
        case.layer.load_state_dict(case.reference.state_dict())
        assert_near(case.layer(x), case.reference(x))
        case.reference.load_state_dict(case.layer.state_dict())

    def test_copies_and_files_compute_the_same(self, build):
        case = build(torch.float64)
        x = self.inputs(case)
        expected = case.layer(x)
        file = io.BytesIO()
        torch.save(case.layer, file)
        file.seek(0)
        copies = deepcopy(case.layer), torch.load(file, weights_only=False)
        with torch.no_grad():
            for parameter in case.layer.parameters():
                parameter.zero_()
        for copy in copies:
            assert torch.equal(copy(x), expected)
