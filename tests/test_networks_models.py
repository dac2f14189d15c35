"""The networks of torchvision that people use, whole, against themselves in two precisions."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

import sparsemat as sm

sys.path.append(str(Path(__file__).parents[1] / "tools"))
import networks as tool

SIZES = {
    **dict.fromkeys(
        (
            *("resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small"),
            *("squeezenet1_1", "shufflenet_v2_x0_5", "efficientnet_b0", "regnet_y_400mf"),
            *("mnasnet0_5", "convnext_tiny", "swin_t", "fcn_resnet50"),
        ),
        32,
    ),
    **dict.fromkeys(("densenet121", "googlenet", "alexnet"), 64),
    "inception_v3": 96,
    "vit_b_16": 224,
}


@pytest.fixture(autouse=True)
def in_double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", SIZES)
def test_output_and_gradients_are_those_of_the_network(name):
    torch.manual_seed(0)
    module, x = tool.built(name), torch.randn(1, 3, SIZES[name], SIZES[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # parts that only run in training
        network = sm.from_module(module, x.shape[1:])
    assert any(type(part).__module__.startswith("sparsemat") for part in network.modules())

    expected, *theirs = tool.output_and_gradients(module, x)
    actual, *mine = tool.output_and_gradients(network, x)
    assert tool.relative(actual, expected) <= 1e-10
    assert tool.gradient_error(mine, theirs) <= 1e-10

    expected, *theirs = tool.output_and_gradients(module.float(), x.float())
    actual, *mine = tool.output_and_gradients(network.float(), x.float())
    assert tool.relative(actual, expected) <= 1e-4
    largest = max(gradient.abs().max() for gradient in theirs)
    assert max((a - b).abs().max() for a, b in zip(mine, theirs, strict=True)) <= 1e-4 * largest


PIECEWISE = (
    *("alexnet", "vgg11_bn", "resnet50", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet"),
    *("mnasnet0_5", "densenet121", "inception_v3", "fcn_resnet50"),
)
CURVED = ("efficientnet_b0", "regnet_y_400mf", "mobilenet_v3_small", "convnext_tiny", "swin_t")


class Out(torch.nn.Module):
    """The main output of a segmenter."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)["out"]


def made(name):
    torch.manual_seed(0)
    module, x = tool.built(name), torch.randn(3, SIZES[name], SIZES[name])
    return Out(module) if name.startswith("fcn") else module, x


@pytest.mark.parametrize("name", PIECEWISE)
def test_the_local_map_is_the_network_and_its_rows_those_of_autograd(name):
    module, x = made(name)
    a, source = sm.local_map(module, x), x.clone().requires_grad_()
    y = module(source[None]).reshape(-1)
    error = a @ x.reshape(-1) + a.offset - y.detach()
    assert error.abs().max() <= 1e-12 * y.abs().max()
    for i in (0, len(y) - 1):
        (row,) = torch.autograd.grad(y[i], source, retain_graph=True)
        assert (a.row(i) - row.reshape(-1)).abs().max() <= 1e-12 * row.abs().max()


@pytest.mark.parametrize("name", CURVED)
def test_the_solution_of_the_system_is_the_network(name):
    module, x = made(name)
    secant, y = sm.secant_map(module, x), module(x[None]).detach().reshape(-1)
    error = secant @ x.reshape(-1) + secant.offset - y
    assert error.abs().max() <= 1e-12 * y.abs().max()
