"""The layers on a GPU give what they give on the CPU; without one the summary says so."""

from copy import deepcopy

import pytest
import torch
from contract import assert_near

import sparsemat as sm
from sparsemat.products.attention import attend

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LAYERS = {
    "tied convolution": (lambda: sm.Conv2d(3, 4, 3, input_size=(6, 5), padding=1), (3, 6, 5)),
    "untied convolution": (lambda: sm.Conv2d(2, 3, 3, input_size=(6, 5), tied=False), (2, 6, 5)),
    "average pooling": (lambda: sm.AvgPool2d(2, input_size=(6, 4)), (2, 6, 4)),
    "max pooling": (lambda: sm.MaxPool2d(2, input_size=(6, 4)), (2, 6, 4)),
    "linear recurrence": (lambda: sm.RNN(3, 4, nonlinearity="linear", batch_first=True), (40, 3)),
    "tanh recurrence": (lambda: sm.RNN(3, 4, batch_first=True), (7, 3)),
    "softmax attention": (lambda: sm.SelfAttention(4, 2, causal=True, batch_first=True), (6, 4)),
    "sparse linear": (
        lambda: sm.SparseLinear(sm.mask_pattern(torch.eye(5, 7) + torch.eye(5, 7).flip(1) > 0)),
        (7,),
    ),
    "linear attention": (
        lambda: sm.SelfAttention(4, 2, softmax=False, window=1, batch_first=True),
        (6, 4),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_gradients_agree_with_the_cpu(name):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    twin = deepcopy(layer).cuda()
    x = torch.randn(3, *shape, dtype=torch.float64)
    results = []
    for copy, at in ((layer, x.clone()), (twin, x.cuda())):
        output = copy(at.requires_grad_())
        output = output[0] if isinstance(output, tuple) else output
        output.square().sum().backward()
        gradients = [parameter.grad for parameter in copy.parameters()]
        results.append([tensor.cpu() for tensor in (output, at.grad, *gradients)])
    for ours, expected in zip(*reversed(results), strict=True):
        assert_near(ours, expected)


@pytest.mark.parametrize("masked", [False, True], ids=["window", "padding"])
def test_flex_attention_has_the_gradients_of_the_square(masked):
    words = torch.tensor([200, 150], device="cuda")
    rules = {"mask": lambda n, head, i, j: j < words[n]} if masked else {"window": 9}
    torch.manual_seed(0)
    sides = [torch.randn(2, 3, 200, 16, device="cuda", requires_grad=True) for _ in range(3)]
    found = []
    for form in ("flex", "square"):
        y = attend(*sides, **rules, form=form)
        found.append((y, *torch.autograd.grad(y.square().sum(), sides)))
    for ours, expected in zip(*found, strict=True):
        # the kernel may multiply in TF32
        torch.testing.assert_close(ours, expected, rtol=1e-2, atol=1e-2)


def test_a_matrix_moves():
    pattern = sm.conv_pattern(1, 1, (3, 3), 2)
    matrix, x = pattern.fill(torch.randn(4)), torch.randn(9)
    there = matrix.to("cuda")
    assert there.device.type == "cuda"
    assert_near((there @ x.cuda()).cpu(), matrix @ x)
    assert torch.equal(there.to_dense().cpu(), matrix.to_dense())
