"""How far back a trained language model looks, measured on its test text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import sparsemat as sm

from . import records, weights
from .devices import make_fabric
from .files import atomic
from .models.text import attention_matrices
from .tasks import TASKS
from .training import EVALUATION_BATCH, evaluate

VARIANTS = "tied", "windowed"  # with softmax, in a layer that can be cut to a band
ROUNDED = 1e-3  # share by which another machine may move a perplexity


@dataclass(frozen=True)
class Reach:
    """What :func:`collect` measured of a run.

    Args:
        record: Its record.
        perplexity: Of the test text, by the number of words back that each word may look at, all
            else unchanged; the last number is that of all words of a block.
        attention: Mean share of the attention of a head in the first block that goes so many words
            back, ``(heads, T)``; over the words of the second half of each block. Rows sum to one.
    """

    record: dict
    perplexity: dict[int, float]
    attention: Tensor


@torch.no_grad()
def collect(record_path: Path, checkpoint: Path, results: Path) -> Path:
    """Measure how far back the language model of a run looks.

    Args:
        record_path: The record, of a tied or windowed language model.
        checkpoint: Its last checkpoint.
        results: Folder of records.

    Returns:
        The file ``results/weights/NAME-reach.safetensors`` that :func:`read` reads.

    Raises:
        ValueError: It is no such run, its checkpoint or the text is not that of its record, or the
            network does not reach its record's perplexity.
    """
    run, name = records.read(record_path), record_path.stem
    configuration = records.find(run["experiment"], run["variant"], run["profile"])
    if configuration.task != "language" or run["variant"] not in VARIANTS:
        raise ValueError(
            f"the run must be of a language model, {' or '.join(VARIANTS)}, got "
            f"{run['experiment']}, {run['variant']}"
        )
    model = weights.restored(run, checkpoint).eval()
    text = weights.data_of(run).test
    length = text[0].shape[1]
    bands = sorted({0, *(2**k for k in range((length - 1).bit_length())), length - 1})
    found = [_perplexity(model, text, band) for band in bands]
    if abs(found[-1] / run["last"]["perplexity"] - 1) > ROUNDED:
        raise ValueError(
            f"{name} must reach its record's perplexity {run['last']['perplexity']:.4f}, "
            f"got {found[-1]:.4f}"
        )
    measured = {
        "bands": torch.tensor(bands),
        "perplexity": torch.tensor(found, dtype=torch.float64),
        "attention": _by_distance(model, text[0]),
    }
    path = results / weights.FOLDER / f"{name}-reach.safetensors"
    with atomic(path) as partial:
        save_file(measured, partial, metadata={"record": json.dumps(run)})
    return path


def read(results: Path | str, name: str) -> Reach:
    """What :func:`collect` measured of a run.

    Args:
        results: Folder of records.
        name: Stem of its record.
    """
    path = Path(results) / weights.FOLDER / f"{name}-reach.safetensors"
    with safe_open(path, "pt") as file:
        bands, found = (file.get_tensor(key).tolist() for key in ("bands", "perplexity"))
        record = json.loads(file.metadata()["record"])
        return Reach(record, dict(zip(bands, found, strict=True)), file.get_tensor("attention"))


def _perplexity(model: nn.Module, text: tuple[Tensor, Tensor], band: int) -> float:
    layers = [layer for layer in model.modules() if isinstance(layer, sm.SelfAttention)]
    own = [layer.window for layer in layers]
    for layer, window in zip(layers, own, strict=True):
        layer.window = band if window is None else min(band, window)
    _, found = evaluate(model, TASKS["language"], *text, make_fabric("cpu", "32-true"))
    for layer, window in zip(layers, own, strict=True):
        layer.window = window
    return found


def _by_distance(model: nn.Module, words: Tensor) -> Tensor:
    length = words.shape[1]
    late = torch.arange(length // 2, length)
    distance = (late[:, None] - torch.arange(length)).clamp(
        min=0
    )  # what comes later weighs nothing
    sums = 0.0
    for part in words.split(EVALUATION_BATCH):
        A = attention_matrices(model, part)[:, :, late].double().sum(0)
        flat = distance.expand(len(A), -1, -1).flatten(1)
        sums = sums + A.new_zeros(len(A), length).scatter_add(1, flat, A.flatten(1))
    return sums / (len(words) * len(late))
