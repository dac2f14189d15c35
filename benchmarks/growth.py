"""How time and memory grow with the sizes, and how near the products come to the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import conv2d, scaled_dot_product_attention

import sparsemat as sm
from sparsemat.products import choose
from sparsemat.products.attention import attend

from .convolution import fastest_conv2d
from .paired import WARM_UP, Case, measure

HEADS, DIM = 8, 64
INPUT, HIDDEN = 8, 64
ROWS, COLS = 1024, 3072


class Work(NamedTuple):
    """A forward and a backward pass, and what it has to do.

    Attributes:
        program: Runs both passes.
        operations: Multiplications and additions; for a pattern two a nonzero and vector and pass.
        moved: Numbers that must be read or written at least once.
        held: Numbers that both passes allocate and keep: results, gradients, what lies between;
            not a buffer that is used block by block, which shows in small sizes only.
        native: The program that one would use otherwise.
    """

    program: Callable[[], object]
    operations: int
    moved: int
    held: int
    native: Callable[[], object]


@dataclass(frozen=True)
class Series:
    """One layer at several sizes; lists have an entry a size.

    Attributes:
        layer: What is computed.
        variable: What grows.
        baseline: What one would use otherwise.
        sizes: Values of the variable.
        ms: Median time.
        mib: Most memory allocated at once.
        baseline_ms: Median time of the baseline.
        baseline_mib: Most memory that the baseline allocated at once.
        ratio: Median over rounds of time over the baseline's time.
        operations: See :class:`Work`.
        moved_mib: Bytes that must move at least once.
        time: Exponent of the size to which the time grows, fitted on log axes.
        predicted_time: The same of the operations.
        memory: Exponent of the memory.
        predicted_memory: The same of the numbers held.
    """

    layer: str
    variable: str
    baseline: str
    sizes: list[int]
    ms: list[float]
    mib: list[float]
    baseline_ms: list[float]
    baseline_mib: list[float]
    ratio: list[float]
    operations: list[int]
    moved_mib: list[float]
    time: float
    predicted_time: float
    memory: float
    predicted_memory: float


def convolution(channels: int, side: int, batch: int, *, tied: bool = True) -> Work:
    """A 3x3 convolution with padding, gradients to kernel and image, beside F.conv2d."""
    pattern = sm.conv_pattern(channels, channels, (side, side), 3, padding=1)
    image, kernel = torch.randn(batch, channels, side, side), torch.randn(channels, channels, 3, 3)
    _, native = fastest_conv2d(image, kernel, padding=1, first_layer=False)
    return _product(pattern if tied else pattern.untied(), batch, native)


def linear(nonzeros: int, batch: int = 100) -> Work:
    """A random sparse matrix, gradients to values and vectors, beside the dense one."""
    mask = torch.zeros(ROWS * COLS, dtype=torch.bool)
    mask[torch.randperm(ROWS * COLS)[:nonzeros]] = True
    dense, x = torch.randn(ROWS, COLS), torch.randn(COLS, batch)
    leaves = dense.requires_grad_(), x.requires_grad_()
    native = _passes(lambda: dense @ x, torch.randn(ROWS, batch), *leaves)
    return _product(sm.mask_pattern(mask.view(ROWS, COLS)), batch, native)


def recurrent(steps: int, batch: int) -> Work:
    """A layer with a linear recurrence, gradients to its parameters, beside nn.RNN."""
    x = torch.randn(batch, steps, INPUT)
    grad = torch.randn(batch, steps, HIDDEN)
    layers = (
        sm.RNN(INPUT, HIDDEN, nonlinearity="linear", batch_first=True),
        torch.nn.RNN(INPUT, HIDDEN, batch_first=True),
    )
    ours, native = (
        _passes(lambda layer=layer: layer(x)[0], grad, *layer.parameters()) for layer in layers
    )
    weights = sum(weight.numel() for weight in layers[0].parameters())
    # three products with the recurrent weight, two with that of the inputs, which get no gradient
    operations = 2 * batch * (3 * (steps - 1) * HIDDEN**2 + 2 * steps * HIDDEN * INPUT)
    moved = 3 * grad.numel() + 2 * x.numel() + 3 * weights
    return Work(ours, operations, moved, 2 * grad.numel() + weights, native)


def attention(tokens: int, *, softmax: bool) -> Work:
    """Softmax attention with an explicit A(X), or linear attention, beside torch's fused softmax.

    The gradients reach q, k and v.
    """
    shape = 1, HEADS, tokens, DIM
    sides = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    form, grad = "square" if softmax else "state", torch.randn(shape)
    ours = _passes(lambda: attend(*sides, softmax=softmax, form=form), grad, *sides)
    native = _passes(lambda: scaled_dot_product_attention(*sides), grad, *sides)
    one, square = HEADS * tokens * DIM, HEADS * tokens**2
    # two products forward and four backward
    operations = 12 * (square * DIM if softmax else one * DIM)
    return Work(ours, operations, 11 * one, 4 * one + (3 * square if softmax else 0), native)


SERIES = [
    (
        "tied conv, 16->16, k3, batch 32",
        "side",
        "F.conv2d",
        (8, 16, 24, 32, 48),
        lambda side: convolution(16, side, 32),
    ),
    (
        "tied conv, 16x16, k3, batch 64",
        "channels",
        "F.conv2d",
        (8, 16, 32, 64),
        lambda channels: convolution(channels, 16, 64),
    ),
    (
        "tied conv, 16->16, 16x16, k3",
        "batch",
        "F.conv2d",
        (16, 32, 64, 128, 256),
        lambda batch: convolution(16, 16, batch),
    ),
    (
        "linear recurrence, hidden 64, batch 32",
        "T",
        "nn.RNN",
        (64, 128, 256, 512, 1024),
        lambda steps: recurrent(steps, 32),
    ),
    (
        "linear recurrence, hidden 64, T 256",
        "batch",
        "nn.RNN",
        (16, 32, 64, 128, 256),
        lambda batch: recurrent(256, batch),
    ),
    (
        "softmax as explicit A(X), 8 heads of 64",
        "T",
        "torch's fused softmax",
        (64, 128, 256, 512, 1024),
        lambda tokens: attention(tokens, softmax=True),
    ),
    (
        "linear attention, 8 heads of 64",
        "T",
        "torch's fused softmax",
        (256, 512, 1024, 2048, 4096),
        lambda tokens: attention(tokens, softmax=False),
    ),
    (
        "sparse matrix, 1024x3072, batch 100",
        "nonzeros",
        "dense",
        [ROWS * COLS >> k for k in range(8, 0, -1)],
        linear,
    ),
]
# products that the roofline shows beside the largest size of each series
POINTS = {
    "untied conv, 16->16, 32x32, k3, batch 16": lambda: convolution(16, 32, 16, tied=False),
    "sparse matrix, 1024x3072, batch 100, 90 % sparse": lambda: linear(ROWS * COLS // 10),
    "sparse matrix, 1024x3072, batch 100, 99 % sparse": lambda: linear(ROWS * COLS // 100),
}


def growth(rounds: int = 7) -> list[Series]:
    """The series, measured.

    Args:
        rounds: Rounds a size after the warm-up.
    """
    return [_measured(rounds, *series) for series in SERIES]


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    """The slope of a straight line fitted to the values over the sizes, both on log axes."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(values)), 1)[0])


def roofline(series: list[Series], rounds: int = 7) -> dict:
    """The machine's ceilings, and the rates of the products beside them.

    Args:
        series: What :func:`growth` found; the largest size of each is a point.
        rounds: Runs a program after the warm-up.

    Returns:
        ``gemm_gflops``, the same product as a convolution with one tap in ``conv_gflops``,
        ``copy_gbs`` and ``triad_gbs``, the best of the rounds; a write counts as one move, though a
        cache may read the line first. ``products``: for each its operations a byte that must move,
        its GFLOP/s and GB/s, and the part of the bound that it reaches, the bound being the lower
        of the arithmetic's and the memory's ceiling at that ratio.
    """
    a, b, c = (torch.randn(2048, 2048) for _ in range(3))
    big = [torch.ones(1 << 24) for _ in range(3)]
    pixels, taps = a.view(1, 2048, 32, 64), b.view(2048, 2048, 1, 1)
    ceilings = {
        "gemm_gflops": (lambda: torch.mm(a, b, out=c), 2 * 2048**3),
        "conv_gflops": (lambda: conv2d(pixels, taps), 2 * 2048**3),
        "copy_gbs": (lambda: big[0].copy_(big[1]), 2 * 4 << 24),
        "triad_gbs": (lambda: torch.add(big[1], big[2], alpha=0.5, out=big[0]), 3 * 4 << 24),
    }
    result = {
        name: work / min(_times(program, rounds)) / 1e9
        for name, (program, work) in ceilings.items()
    }
    measured = [
        (f"{s.layer}, {s.variable} {s.sizes[-1]}", s.operations[-1], s.moved_mib[-1], s.ms[-1])
        for s in series
    ]
    for name, build in POINTS.items():
        work = build()
        ms = 1e3 * statistics.median(_times(work.program, rounds))
        measured.append((name, work.operations, 4 * work.moved / 2**20, ms))
    result["products"] = [_point(*product, result) for product in measured]
    return result


def show(series: list[Series], roof: dict) -> None:
    """Print what was found, a line a series and a line a product."""
    line = "{:<42} {:<9} {:<18} {:>17} {:>19}  {}"
    heads = "time (predicted)", "memory (predicted)", "ratio to the native one"
    print(line.format("growth", "with", "sizes", *heads))
    for s in series:
        sizes = f"{s.sizes[0]}..{s.sizes[-1]}"
        spent = f"{s.time:.2f} ({s.predicted_time:.2f})"
        held = f"{s.memory:.2f} ({s.predicted_memory:.2f})"
        ratios = " ".join(f"{ratio:.2f}" for ratio in s.ratio)
        print(line.format(s.layer, s.variable, sizes, spent, held, ratios))
    print(
        f"ceilings: {roof['gemm_gflops']:.0f} GFLOP/s (sgemm), {roof['conv_gflops']:.0f} GFLOP/s "
        f"(as conv2d), {roof['copy_gbs']:.1f} GB/s (copy), {roof['triad_gbs']:.1f} GB/s (triad)"
    )
    line = "{:<52} {:>8} {:>8} {:>14} {:>14}"
    print(line.format("product", "GFLOP/s", "GB/s", "operations/byte", "of the bound"))
    for p in roof["products"]:
        rates = (f"{p[key]:.1f}" for key in ("gflops", "gbs", "intensity"))
        print(line.format(p["product"], *rates, f"{100 * p['of_bound']:.0f} %"))


def record(rounds: int) -> dict:
    """Growth and roofline as plain data, printed on the way."""
    series = growth(rounds)
    roof = roofline(series, rounds)
    show(series, roof)
    return {"growth": [asdict(s) for s in series], "roofline": roof}


def _point(name: str, operations: int, moved_mib: float, ms: float, roof: dict) -> dict:
    moved = moved_mib * 2**20
    gflops, intensity = operations / ms / 1e6, operations / moved
    bound = min(max(roof["gemm_gflops"], roof["conv_gflops"]), intensity * roof["triad_gbs"])
    return {
        "product": name,
        "gflops": gflops,
        "gbs": moved / ms / 1e6,
        "intensity": intensity,
        "of_bound": gflops / bound,
    }


def _measured(
    rounds: int, layer: str, variable: str, baseline: str, sizes: Iterable[int], build: Callable
) -> Series:
    works = [build(size) for size in sizes]
    found = [
        measure(Case(layer, (baseline, work.native), ("ours", work.program)), rounds)
        for work in works
    ]
    ms, mib = [one.ours_ms for one in found], [one.ours_mib for one in found]
    operations = [work.operations for work in works]
    return Series(
        layer,
        variable,
        baseline,
        list(sizes),
        ms,
        mib,
        [one.baseline_ms for one in found],
        [one.baseline_mib for one in found],
        [one.ratio for one in found],
        operations,
        [4 * work.moved / 2**20 for work in works],
        exponent(sizes, ms),
        exponent(sizes, operations),
        exponent(sizes, mib),
        exponent(sizes, [work.held for work in works]),
    )


def _product(pattern: sm.Pattern, batch: int, native: Callable) -> Work:
    product, (rows, cols) = choose(pattern), pattern.shape
    theta = torch.randn(pattern.num_parameters, requires_grad=True)
    x = torch.randn(cols, batch, requires_grad=True)
    program = _passes(lambda: product(theta, x), torch.randn(rows, batch), theta, x)
    weights, ins, outs = len(theta), cols * batch, rows * batch
    moved = 3 * weights + 3 * ins + 2 * outs
    return Work(program, 6 * batch * pattern.nnz, moved, weights + ins + outs, native)


def _passes(
    forward: Callable[[], torch.Tensor], grad: torch.Tensor, *leaves: torch.Tensor
) -> Callable[[], object]:
    def program() -> None:
        forward().backward(grad)
        for leaf in leaves:
            leaf.grad = None

    return program


def _times(program: Callable, rounds: int) -> list[float]:
    """Seconds of every round."""
    for _ in range(WARM_UP):
        program()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        program()
        times.append(time.perf_counter() - start)
    return times
