"""Structured matrices beside dense ones, low rank at equal operations, and what torch offers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sparsemat.structured import (
    Blast,
    BlockLowRank,
    BlockSparse,
    Butterfly,
    DiagonalStateSpace,
    LowRank,
    StrassenTileLinear,
    StructuredMatrix,
    TileBases,
    TileSequential,
    bit_reversal,
)

from .paired import Case

BATCH = 256
T2T_ROWS = 32 * 196  # a batch of 32 images of 196 tokens
T2T_LAYERS = ((256, 768), (256, 256), (256, 512), (512, 256))  # T2T-ViT-7: width 256, ratio 2
# rows, rank, what is trained: the largest ratio
TILES = {
    (1024, 24): 1 / 1.4,
    (2048, 24): 1 / 1.7,
    (4096, 24): 1 / 1.9,
    (2048, 16): 1 / 2.6,
}
TILES_TRAINED = {(1024, 24): 1 / 1.4, (2048, 24): 1 / 1.7, (4096, 24): 1 / 1.7}
TILES_STACKED = ((1024, 24), (2048, 16), (2048, 24))  # three layers, layout kept between them


def cases() -> Iterator[Case]:
    """Products with a batch of vectors, forward, or forward and backward."""
    yield from block_sparse()
    yield from against_low_rank()
    yield from fast_transforms()
    yield from tiles()


def block_sparse() -> Iterator[Case]:
    """95 % of the blocks of 32 x 32 absent."""
    size, block = 2048, 32
    grid = size // block
    mask = torch.zeros(grid * grid, dtype=torch.bool)
    mask[torch.randperm(grid * grid)[: grid * grid // 20]] = True
    sparse, dense = BlockSparse((size, size), mask.view(grid, grid)), nn.Linear(size, size, False)
    x = torch.randn(BATCH, size)
    name = f"block sparse 95 %, {size}², batch {BATCH}"
    yield Case(f"{name}, training", ("dense", training(dense, x)),
               ("BlockSparse", training(sparse, x)), 1 / 5)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: its support of this layout is a beta
        rows = sparse.to_dense().detach().to_sparse_bsr((block, block))
    columns = x.t().contiguous()
    yield Case(f"{name}, forward", ("torch BSR", lambda: rows @ columns),
               ("BlockSparse", forward(sparse, x)), 1)  # fmt: skip


def against_low_rank() -> Iterator[Case]:
    """BTT and BLAST beside a dense product, and beside low rank at equal operations."""
    size = 2048
    dense, x = nn.Linear(size, size, False), torch.randn(BATCH, size)
    members: dict[str, StructuredMatrix] = {
        "BTT r=2": BlockLowRank((size, size), (32, 32), 2),
        "BLAST b=4 r=128": Blast((size, size), (4, 4), 128),
    }
    for kind, member in members.items():
        equal = LowRank((size, size), member.macs // (2 * size))
        ours = kind, forward(member, x)
        yield Case(f"{kind}, {size}², batch {BATCH}, forward", ("dense", forward(dense, x)),
                   ours, 1 / 3)  # fmt: skip
        yield Case(f"{kind}, {size}², batch {BATCH}, forward",
                   (f"low rank {equal.rank}", forward(equal, x)), ours)  # fmt: skip


def fast_transforms() -> Iterator[Case]:
    """Butterflies beside a dense product, a state space model beside its convolution alone."""
    for size in (512, 1024, 2048):
        dense, x = nn.Linear(size, size, False), torch.randn(BATCH, size)
        butterfly = Butterfly((size, size))
        yield Case(f"butterfly {size}, batch {BATCH}, forward", ("dense", forward(dense, x)),
                   ("Butterfly", forward(butterfly, x)), 1 if size >= 1024 else None)  # fmt: skip
    for size in (1024, 4096):
        x = torch.randn(BATCH, size, dtype=torch.complex64)
        yield Case(f"Fourier transform {size}, batch {BATCH}, forward",
                   ("torch.fft", forward(torch.fft.fft, x)),
                   ("Butterfly", forward(fast_fourier(size), x)))  # fmt: skip
    length, batch = 4096, 64
    model, x = DiagonalStateSpace((length, length), 64), torch.randn(batch, length)
    kernel = model.kernel().detach()

    def convolution() -> Tensor:
        spectrum = torch.fft.rfft(kernel, 2 * length) * torch.fft.rfft(x, 2 * length)
        return torch.fft.irfft(spectrum, 2 * length)[:, :length]

    name = f"S4D L={length} N=64, batch {batch}, forward"
    yield Case(name, ("torch.fft convolution", convolution),
               ("DiagonalStateSpace", forward(model, x)), 1.5)  # fmt: skip


def fast_fourier(size: int) -> Callable[[Tensor], Tensor]:
    """The Fourier transform of a batch of vectors as a butterfly, with the order of its inputs."""
    transform, order = Butterfly.fourier(size), bit_reversal(size)
    return lambda x: transform(x[:, order])


def tiles() -> Iterator[Case]:
    """Strassen-Tile beside the dense product by its fastest route on this machine."""
    for (size, rank), goal in TILES.items():
        dense, layer, x = _tile_layers(size, size, size, rank)
        yield Case(f"tiles r={rank}, {size}³, forward", fastest(dense, x, forward),
                   ("StrassenTile", forward(layer, x)), goal)  # fmt: skip
    for (size, rank), goal in TILES_TRAINED.items():
        dense, layer, x = _tile_layers(size, size, size, rank)
        yield Case(f"tiles r={rank}, {size}³, training, bases too", fastest(dense, x, training),
                   ("StrassenTile", training(layer, x)), goal)  # fmt: skip
    for size, rank in TILES_STACKED:
        layers = [_tile_layers(size, size, size, rank)[1] for _ in range(3)]
        stack = TileSequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        x = torch.randn(size, size)
        yield Case(f"tiles r={rank}, three layers of {size}³, forward",
                   ("layer by layer", forward(nn.Sequential(*stack), x)),
                   ("TileSequential", forward(stack, x)))  # fmt: skip
    for inputs, outputs in T2T_LAYERS:
        for rank in (16, 24):
            dense, layer, x = _tile_layers(T2T_ROWS, inputs, outputs, rank)
            yield Case(f"tiles r={rank}, T2T-ViT-7 {inputs} to {outputs}, forward",
                       fastest(dense, x, forward), ("StrassenTile", forward(layer, x)))  # fmt: skip


def _tile_layers(rows: int, inputs: int, outputs: int, rank: int):
    layer = StrassenTileLinear(inputs, outputs, TileBases.pruned(rank), bias=False)
    return nn.Linear(inputs, outputs, False), layer, torch.randn(rows, inputs)


def forward(module: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Tensor]:
    """The product without gradients."""

    def program() -> Tensor:
        with torch.no_grad():
            return module(x)

    return program


def training(module: nn.Module, x: Tensor) -> Callable[[], object]:
    """The product, and the gradients of its vectors and parameters."""
    x = x.clone().requires_grad_()
    inputs = [x, *module.parameters()]
    with torch.no_grad():
        gradient = torch.randn_like(module(x))
    return lambda: torch.autograd.grad(module(x), inputs, gradient)


def fastest(
    dense: nn.Linear, x: Tensor, kind: Callable[[nn.Module, Tensor], Callable[[], object]]
) -> tuple[str, Callable[[], object]]:
    """The dense product by oneDNN or without it, whichever is faster here."""
    program = kind(dense, x)

    def routed(enabled: bool) -> Callable[[], object]:
        def run() -> object:
            before = torch._C._get_mkldnn_enabled()
            torch._C._set_mkldnn_enabled(enabled)
            try:
                return program()
            finally:
                torch._C._set_mkldnn_enabled(before)

        return run

    programs = {"dense (oneDNN)": routed(True), "dense (BLAS)": routed(False)}
    seconds = {}
    for name, run in programs.items():
        run()
        start = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - start
    name = min(seconds, key=seconds.__getitem__)
    return name, programs[name]
