"""Published schemes of 48 products for tiles of 4x4: their files, and what holds of them.

The numbers belong to their authors and are not part of this package. ``python -m
sparsemat.experiments.schemes`` fetches the files as data sets are fetched, checks all 4,096 Brent
equations of each scheme in fractions, and writes ``results/structured/schemes.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..structured import StrassenTileLinear, TileBases, brent_residuals, read_sms
from .datasets import PublishedFile
from .files import write_json

RECORD = Path(__file__).parents[2] / "results" / "structured" / "schemes.json"
ROOT = "https://raw.githubusercontent.com/jgdumas/plinopt/656c3167a025518ea0451e44ada56fa5f8663051"
MAPS = "L", "R", "P"  # of the left tile, of the right one, and of the products


def _files(name: str, *checksums: str) -> tuple[PublishedFile, ...]:
    names = [f"4x4x4_48_{name}_{letter}.sms" for letter in MAPS]
    return tuple(
        PublishedFile(path=f"plinopt/{file}", urls=(f"{ROOT}/data/{file}",), sha256=checksum)
        for file, checksum in zip(names, checksums, strict=True)
    )


# name: its three maps, as Dumas, Pernet and Sedoglavic publish them
SCHEMES: dict[str, tuple[PublishedFile, ...]] = {
    "rational": _files(
        "rational",
        "8eba3256d1012fe794b90c2a1fcead5ccc0db966cc388c2a51609845406b8617",
        "4bc68b6dd3c8125aa59ebb7de706a54520876cfabcc83a4f5dc84ebfd60c1fe5",
        "f67faa68030d6ac4e625e800800f60fe74722188b7189b86b34b34d8a4833f1d",
    ),
    "accurate": _files(
        "accurate",
        "65328684b25b23395b96c8979340083fc9d5ab7e1423ba6d75cb21e47a8bacae",
        "4537935ee71daa5d3c43b315f06c9674b88ae8241206156b91d5435f838e0646",
        "e45461f1f32025ad5d289a8720c6aced5509a62ef14e6e2b4a8f49a90a0cd28b",
    ),
}


def published(name: str) -> TileBases:
    """A published scheme of 48 products, fetched if its files are not at hand.

    Args:
        name: One of ``SCHEMES``.

    Raises:
        ValueError: A file does not have its checksum.
        FileNotFoundError: A file is missing and cannot be downloaded.
    """
    return TileBases.from_sms(*[file.fetch() for file in SCHEMES[name]])


def examine(paths: Sequence[str | Path]) -> dict[str, object]:
    """What holds of the scheme in three files: numbers that JSON can hold.

    Args:
        paths: Files of E, F and D, as :func:`sparsemat.structured.read_sms` reads them.

    Returns:
        Products, Brent equations and how many fail, in fractions; distinct sizes of the entries
        as texts; nonzeros; cancellation; and the largest error of a dense layer with integers as
        weights, encoded by the scheme, on integers.
    """
    maps = [read_sms(path) for path in paths]
    residuals = brent_residuals(*maps)
    bases = TileBases.from_sms(*paths).double()
    return {
        "products": bases.rank,
        "equations": residuals.size,
        "failing": int(np.count_nonzero(residuals)),
        "sizes": [str(v) for v in sorted({abs(v) for m in maps for v in m.flat} - {0})],
        "nonzeros": [int(np.count_nonzero(m)) for m in maps],
        "cancellation": bases.cancellation(),
        "largest error on integers": _error_on_integers(bases),
    }


@torch.no_grad()
def _error_on_integers(bases: TileBases) -> float:
    t, generator = bases.tile, torch.Generator().manual_seed(0)

    def integers(*shape: int) -> torch.Tensor:
        return torch.randint(-9, 10, shape, generator=generator).double()

    weight, x = integers(3 * t, 2 * t), integers(5 * t, 2 * t)
    layer = StrassenTileLinear(2 * t, 3 * t, bases, bias=False).double()
    tiles = weight.mT.reshape(2, t, 3, t).permute(1, 3, 0, 2).reshape(t * t, 6)
    layer.slab.weight.copy_((bases.encode_weight @ tiles).reshape(-1, 2, 3))
    return float((layer(x) - nn.functional.linear(x, weight)).abs().max())


def main() -> None:
    """Examine every published scheme and store what holds."""
    record = {}
    for name, files in SCHEMES.items():
        found = examine([file.fetch() for file in files])
        record[name] = found | {"sha256": [file.sha256 for file in files]}
        print(name, found)
    write_json(RECORD, record)


if __name__ == "__main__":
    main()
