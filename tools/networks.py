#!/usr/bin/env python3
"""Convert every classifier and segmenter of torchvision once and compare outputs and gradients.

Usage: tools/networks.py [NAME ...]; random weights, float64, one line a network, each in a process
of its own; fails if one differs by more than 1e-10 of the largest. The largest take 16 GiB,
pages of a file of 5 GB included that holds the gradients of torch's form.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
import warnings

import torch
from torch import nn
from torchvision import models

import sparsemat as sm

SIZES = {"inception_v3": 96, "vit": 224, "maxvit": 224, "vit_h_14": 224}


def modules_listed() -> list[str]:
    families = models, models.segmentation
    return [name for family in families for name in models.list_models(module=family)]


def built(name: str) -> nn.Module:
    options = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    elif name in models.list_models(module=models.segmentation):
        options |= {"weights_backbone": None}
    # swin_v2 has tables in single precision whatever the default is
    module = models.get_model(name, **options).eval().to(torch.get_default_dtype())
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    for path, parameter in module.named_parameters():
        if path.endswith("weight") and not parameter.any():  # such a head hides everything
            nn.init.normal_(parameter, 0, 0.1)
    return module


def output_and_gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    y = module(x)
    y = y["out"] if isinstance(y, dict) else y
    loss = (torch.linspace(-1, 1, y.numel()).view_as(y) * y).sum()
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return [y, *(torch.zeros(()) if g is None else g for g in gradients)]


def check(name: str) -> bool:
    torch.manual_seed(0)
    size = next((s for prefix, s in SIZES.items() if name.startswith(prefix)), 64)
    module, x = built(name), torch.randn(1, 3, size, size)
    with tempfile.TemporaryDirectory() as folder:  # the largest have 5 GB of gradients
        torch.save(output_and_gradients(module, x), f"{folder}/theirs")
        start = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            network = sm.from_module(module, (3, size, size))
        took = time.perf_counter() - start
        del module
        idle = [w for w in caught if "did not run as parts" in str(w.message)]
        actual = output_and_gradients(network, x)
        expected = torch.load(f"{folder}/theirs", mmap=True)
        error, gradient = relative(actual[0], expected[0]), gradient_error(actual[1:], expected[1:])
    good = max(error, gradient) <= 1e-10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own = sum(type(p).__module__.startswith("sparsemat") for p in network.modules())
    print(
        f"{name:28} {size:4} px  output {error:.0e}  gradients {gradient:.0e}  "
        f"{own:4} matrix layers  {took:5.1f} s  {peak:4.1f} GiB  "
        + ("" if good else "DIFFERS ")
        # some parts are only there for training
        + (str(idle[0].message).rpartition(": ")[2][:60] if idle else ""),
        flush=True,
    )
    return good


def check_alone(name: str) -> bool:
    """In a process of its own, so that one that takes too much does not end the others."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: sys.exit(0 if check(name) else 1))
    process.start()
    process.join()
    if process.exitcode not in (0, 1):
        print(f"{name:28} ended by signal {-process.exitcode}: out of memory?", flush=True)
    return process.exitcode == 0


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def gradient_error(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest error of a parameter's gradient, relative to that gradient."""
    largest = max(g.abs().max() for g in expected)
    return max(
        relative(a, e)
        for a, e in zip(actual, expected, strict=True)
        if e.abs().max() > 1e-8 * largest  # the rest is rounding, of biases before a norm, say
    )


def main(names: list[str]) -> int:
    torch.set_default_dtype(torch.float64)
    results = [check_alone(name) for name in names or modules_listed()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
