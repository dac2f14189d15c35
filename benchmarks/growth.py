"""How time and memory grow with the sizes, and how near the products come to the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch

import sparsemat as sm
from sparsemat.products import choose
from sparsemat.products.attention import attend
from sparsemat.products.recurrence import recurrence

from .paired import WARM_UP, peak_memory

HEADS, DIM = 8, 64


class Work(NamedTuple):
    """A forward and a backward pass, and what it has to do.

    Attributes:
        program: Runs both passes.
        operations: Multiplications and additions; for a pattern two a nonzero and vector and pass.
        moved: Numbers that must be read or written at least once.
        held: Numbers that both passes allocate and keep: results, gradients, what lies between;
            not a buffer that is used block by block, which shows in small sizes only.
    """

    program: Callable[[], object]
    operations: int
    moved: int
    held: int


@dataclass(frozen=True)
class Series:
    """One layer at several sizes; lists have an entry a size.

    Attributes:
        layer: What is computed.
        variable: What grows.
        sizes: Its values.
        ms: Median time.
        mib: Most memory allocated at once.
        operations: See :class:`Work`.
        moved_mib: Bytes that must move at least once.
        time: Exponent of the size to which the time grows, fitted on log axes.
        predicted_time: The same of the operations.
        memory: Exponent of the memory.
        predicted_memory: The same of the numbers held.
    """

    layer: str
    variable: str
    sizes: list[int]
    ms: list[float]
    mib: list[float]
    operations: list[int]
    moved_mib: list[float]
    time: float
    predicted_time: float
    memory: float
    predicted_memory: float


def convolution(channels: int, side: int, batch: int, *, tied: bool = True) -> Work:
    """A 3x3 convolution with padding, gradients to kernel and image."""
    pattern = sm.conv_pattern(channels, channels, (side, side), 3, padding=1)
    return _product(pattern if tied else pattern.untied(), batch)


def linear(sparsity: float, batch: int) -> Work:
    """A random sparse 1024x3072 matrix, gradients to values and vectors."""
    return _product(sm.mask_pattern(torch.rand(1024, 3072) > sparsity), batch)


def recurrent(steps: int, batch: int, hidden: int = 64) -> Work:
    """A linear recurrence, gradients to inputs and weight."""
    inputs = torch.randn(steps, batch, hidden, requires_grad=True)
    weight = (0.5 * torch.eye(hidden)).requires_grad_()
    nonzeros, states = (steps - 1) * hidden**2, inputs.numel()
    program = _passes(lambda: recurrence(inputs, weight), torch.randn_like(inputs), inputs, weight)
    return Work(program, 6 * batch * nonzeros, 4 * states + 3 * hidden**2, 2 * states + hidden**2)


def attention(tokens: int, *, softmax: bool) -> Work:
    """Softmax attention with an explicit A(X), or linear attention; gradients to q, k and v."""
    shape = 1, HEADS, tokens, DIM
    sides = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    form = "square" if softmax else "state"
    program = _passes(
        lambda: attend(*sides, softmax=softmax, form=form), torch.randn(shape), *sides
    )
    one, square = HEADS * tokens * DIM, HEADS * tokens**2
    # two products forward and four backward
    operations = 12 * (square * DIM if softmax else one * DIM)
    return Work(program, operations, 11 * one, 4 * one + (3 * square if softmax else 0))


SERIES = [
    (
        "tied conv, 16->16, k3, batch 32",
        "side",
        (8, 16, 24, 32, 48),
        lambda side: convolution(16, side, 32),
    ),
    (
        "tied conv, 16x16, k3, batch 64",
        "channels",
        (8, 16, 32, 64),
        lambda channels: convolution(channels, 16, 64),
    ),
    (
        "tied conv, 16->16, 16x16, k3",
        "batch",
        (16, 32, 64, 128, 256),
        lambda batch: convolution(16, 16, batch),
    ),
    (
        "linear recurrence, hidden 64, batch 32",
        "T",
        (64, 128, 256, 512, 1024),
        lambda steps: recurrent(steps, 32),
    ),
    (
        "linear recurrence, hidden 64, T 256",
        "batch",
        (16, 32, 64, 128, 256),
        lambda batch: recurrent(256, batch),
    ),
    (
        "softmax as explicit A(X), 8 heads of 64",
        "T",
        (64, 128, 256, 512, 1024),
        lambda tokens: attention(tokens, softmax=True),
    ),
    (
        "linear attention, 8 heads of 64",
        "T",
        (256, 512, 1024, 2048, 4096),
        lambda tokens: attention(tokens, softmax=False),
    ),
]
# products that the roofline shows beside the largest size of each series
POINTS = {
    "untied conv, 16->16, 32x32, k3, batch 16": lambda: convolution(16, 32, 16, tied=False),
    "1024x3072, 90 % sparse, batch 100": lambda: linear(0.9, 100),
    "1024x3072, 99 % sparse, batch 100": lambda: linear(0.99, 100),
}


def growth(rounds: int = 7) -> list[Series]:
    """The series, measured.

    Args:
        rounds: Runs a size after the warm-up.
    """
    found = []
    for layer, variable, sizes, build in SERIES:
        works = [build(size) for size in sizes]
        ms, mib = _milliseconds([work.program for work in works], rounds), []
        for work in works:
            mib.append(peak_memory(work.program) / 2**20)
        operations = [work.operations for work in works]
        found.append(
            Series(
                layer,
                variable,
                list(sizes),
                ms,
                mib,
                operations,
                [4 * work.moved / 2**20 for work in works],
                exponent(sizes, ms),
                exponent(sizes, operations),
                exponent(sizes, mib),
                exponent(sizes, [work.held for work in works]),
            )
        )
    return found


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
    """The slope of a straight line fitted to the values over the sizes, both on log axes."""
    return float(np.polyfit(np.log(list(sizes)), np.log(list(values)), 1)[0])


def roofline(series: list[Series], rounds: int = 7) -> dict:
    """The machine's ceilings, and the rates of the products beside them.

    Args:
        series: What :func:`growth` found; the largest size of each is a point.
        rounds: Runs a program after the warm-up.

    Returns:
        ``gemm_gflops``, ``copy_gbs`` and ``triad_gbs``, the best of the rounds; a write counts as
        one move, though a cache may read the line first. ``products``: for each its operations a
        byte that must move, its GFLOP/s and GB/s, and the part of the bound that it reaches, the
        bound being the lower of the two ceilings at that ratio.
    """
    a, b, c = (torch.randn(2048, 2048) for _ in range(3))
    big = [torch.ones(1 << 24) for _ in range(3)]
    ceilings = {
        "gemm_gflops": (lambda: torch.mm(a, b, out=c), 2 * 2048**3),
        "copy_gbs": (lambda: big[0].copy_(big[1]), 2 * 4 << 24),
        "triad_gbs": (lambda: torch.add(big[1], big[2], alpha=0.5, out=big[0]), 3 * 4 << 24),
    }
    result = {
        name: work / min(_times([program], rounds)[0]) / 1e9
        for name, (program, work) in ceilings.items()
    }
    measured = [
        (f"{s.layer}, {s.variable} {s.sizes[-1]}", s.operations[-1], s.moved_mib[-1], s.ms[-1])
        for s in series
    ]
    for name, build in POINTS.items():
        work = build()
        (ms,) = _milliseconds([work.program], rounds)
        measured.append((name, work.operations, 4 * work.moved / 2**20, ms))
    result["products"] = [_point(*product, result) for product in measured]
    return result


def show(series: list[Series], roof: dict) -> None:
    """Print what was found, a line a series and a line a product."""
    line = "{:<42} {:<9} {:<22} {:>17} {:>17}"
    print(line.format("growth", "with", "sizes", "time (predicted)", "memory (predicted)"))
    for s in series:
        sizes = " ".join(map(str, s.sizes))
        spent = f"{s.time:.2f} ({s.predicted_time:.2f})"
        held = f"{s.memory:.2f} ({s.predicted_memory:.2f})"
        print(line.format(s.layer, s.variable, sizes, spent, held))
    print(
        f"ceilings: {roof['gemm_gflops']:.0f} GFLOP/s (sgemm), {roof['copy_gbs']:.1f} GB/s (copy), "
        f"{roof['triad_gbs']:.1f} GB/s (triad)"
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
    bound = min(roof["gemm_gflops"], intensity * roof["triad_gbs"])
    return {
        "product": name,
        "gflops": gflops,
        "gbs": moved / ms / 1e6,
        "intensity": intensity,
        "of_bound": gflops / bound,
    }


def _product(pattern: sm.Pattern, batch: int) -> Work:
    product, (rows, cols) = choose(pattern), pattern.shape
    theta = torch.randn(pattern.num_parameters, requires_grad=True)
    x = torch.randn(cols, batch, requires_grad=True)
    program = _passes(lambda: product(theta, x), torch.randn(rows, batch), theta, x)
    weights, ins, outs = len(theta), cols * batch, rows * batch
    moved = 3 * weights + 3 * ins + 2 * outs
    return Work(program, 6 * batch * pattern.nnz, moved, weights + ins + outs)


def _passes(
    forward: Callable[[], torch.Tensor], grad: torch.Tensor, *leaves: torch.Tensor
) -> Callable[[], object]:
    def program() -> None:
        forward().backward(grad)
        for leaf in leaves:
            leaf.grad = None

    return program


def _times(programs: list[Callable], rounds: int) -> list[list[float]]:
    """Seconds of every program in every round, programs in turn."""
    for program in programs:
        for _ in range(WARM_UP):
            program()
    times = [[] for _ in programs]
    for _ in range(rounds):
        for program, mine in zip(programs, times, strict=True):
            start = time.perf_counter()
            program()
            mine.append(time.perf_counter() - start)
    return times


def _milliseconds(programs: list[Callable], rounds: int) -> list[float]:
    return [1e3 * statistics.median(mine) for mine in _times(programs, rounds)]
