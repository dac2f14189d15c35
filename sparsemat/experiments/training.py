"""Training: deterministic, on Lightning Fabric, with checkpoints that a kill cannot spoil.

The order of the examples and the random numbers of an epoch follow from the seed and the number of
the epoch alone, so a checkpoint at the end of an epoch holds all that the rest of a run depends on.
"""

from __future__ import annotations

import hashlib
import platform
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from . import datasets, models
from .configurations import Configuration
from .files import atomic
from .tasks import TASKS, Task

EVALUATION_BATCH = 1000


@dataclass
class Progress:
    """How far a run has come.

    Args:
        model: The network.
        curve: One entry an epoch: ``epoch`` from 1, ``train_loss`` (mean over its steps),
            ``test_loss``, the task's metric, and the ``seconds`` of training.
        peak_mebibytes: Most memory in use so far: the GPU's where there is one, else the process's.
    """

    model: nn.Module
    curve: list[dict] = field(default_factory=list)
    peak_mebibytes: float = 0.0


def train(
    configuration: Configuration,
    variant: str,
    seed: int,
    *,
    fabric: Fabric,
    epochs: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Progress:
    """Train one variant of a network.

    Args:
        configuration: What to train, on what and how.
        variant: Which variant.
        seed: Seed of the initial weights, of the order of the examples and of dropout.
        fabric: The device; see :func:`make_fabric`.
        epochs: Stop after this many of the configuration's epochs.
        checkpoint: File that is replaced at the end of every epoch.
        resume: Whether to go on from the checkpoint, if there is one.

    Raises:
        ValueError: The checkpoint belongs to another run.
    """
    task, data = TASKS[configuration.task], datasets.load(configuration.dataset)
    inputs, targets = (tensor.to(fabric.device) for tensor in data.train)
    test = tuple(tensor.to(fabric.device) for tensor in data.test)
    model = models.build(configuration.network, variant, seed)
    optimizer, schedule = make_optimizer(configuration, model, len(inputs))
    forward, stepper = fabric.setup(model, optimizer)

    identity = {"configuration": asdict(configuration), "variant": variant, "seed": seed}
    identity["data"] = data.fingerprint
    stateful = {"model": model, "optimizer": optimizer, "schedule": schedule}
    progress = Progress(model)
    if checkpoint is not None and resume and checkpoint.exists():
        _restore(checkpoint, identity, stateful, progress, fabric.device)

    last = configuration.epochs if epochs is None else epochs
    per_epoch = -(-len(inputs) // configuration.batch_size)
    bar = tqdm(
        total=last * per_epoch,
        initial=len(progress.curve) * per_epoch,
        desc=f"{configuration.dataset} {variant} {seed}",
        disable=None,  # silent where nobody watches
    )
    for epoch in range(len(progress.curve), last):
        started, losses = time.perf_counter(), []
        torch.manual_seed(_epoch_seed(seed, epoch))
        batches = order(len(inputs), configuration.batch_size, seed, epoch)
        forward.train()
        for loss in steps(
            forward, stepper, schedule, task, inputs, targets, batches, fabric.backward
        ):
            losses.append(loss.detach())
            bar.update()
        train_loss = torch.stack(losses).double().mean().item()
        seconds = time.perf_counter() - started
        progress.curve.append(
            {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                **evaluate(forward, task, *test),
                "seconds": round(seconds, 3),
            }
        )
        progress.peak_mebibytes = max(progress.peak_mebibytes, _peak_mebibytes(fabric.device))
        if checkpoint is not None:
            _save(checkpoint, identity, stateful, progress)
    bar.close()
    return progress


def steps(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    task: Task,
    inputs: Tensor,
    targets: Tensor,
    batches: Iterator[Tensor],
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Iterator[Tensor]:
    """Take one step a batch, and yield the loss before it.

    Args:
        model: The network.
        optimizer: Its optimiser.
        schedule: Advanced once a step.
        task: Gives the loss.
        inputs: All training inputs, first axis examples.
        targets: All training targets.
        batches: Index tensors into them.
        backward: How to differentiate; Fabric's scales for mixed precision.
    """
    for batch in batches:
        at = batch.to(inputs.device)
        loss = task.loss(model(inputs[at]), targets[at])
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        schedule.step()
        yield loss


def losses(
    configuration: Configuration,
    variant: str,
    seed: int,
    count: int,
    dtype: torch.dtype = torch.float64,
) -> list[float]:
    """The losses of the first steps, in a chosen precision: for comparing variants step by step.

    Args:
        configuration: What to train, on what and how.
        variant: Which variant.
        seed: As for :func:`train`.
        count: Number of steps.
        dtype: Precision of weights and activations.

    Returns:
        ``count`` losses, each before its step.
    """
    inputs, targets = datasets.load(configuration.dataset).train
    model = models.build(configuration.network, variant, seed).to(dtype)
    optimizer, schedule = make_optimizer(configuration, model, len(inputs))
    batches = (
        batch
        for epoch in range(configuration.epochs)
        for batch in order(len(inputs), configuration.batch_size, seed, epoch)
    )
    task = TASKS[configuration.task]
    stepped = steps(model, optimizer, schedule, task, inputs, targets, batches)
    return [next(stepped).item() for _ in range(count)]


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean loss and the task's metric over all examples, as ``test_loss`` and by its name."""
    model.eval()
    loss = score = 0.0
    for x, y in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True):
        outputs = model(x)
        loss += task.loss(outputs, y).item() * len(x)
        score += task.score(outputs, y).item()
    return {"test_loss": loss / len(inputs), task.metric: task.scale * score / len(inputs)}


def order(count: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The batches of an epoch: a permutation of ``range(count)``, cut; the last may be smaller."""
    generator = torch.Generator().manual_seed(_epoch_seed(seed, epoch))
    return torch.randperm(count, generator=generator).split(batch_size)


def make_optimizer(
    configuration: Configuration, model: nn.Module, examples: int
) -> tuple[Optimizer, LRScheduler]:
    """AdamW and its one-cycle schedule over all steps of a run."""
    rate = configuration.learning_rate
    optimizer = AdamW(model.parameters(), lr=rate, weight_decay=configuration.weight_decay)
    total = configuration.epochs * -(-examples // configuration.batch_size)
    return optimizer, OneCycleLR(optimizer, max_lr=rate, total_steps=total)


def make_fabric(device: str, precision: str) -> Fabric:
    """Fabric on one device.

    Args:
        device: "cpu", "cuda" or "auto" (a GPU if there is one).
        precision: As Fabric names it.

    Raises:
        ValueError: A GPU is asked for and there is none, or the device is unknown.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"the device must be auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("the device cuda needs a GPU that torch can see, and it sees none")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Fabric(accelerator=device, devices=1, precision=precision)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over the names and values of all parameters and buffers that are saved."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _epoch_seed(seed: int, epoch: int) -> int:
    return 10_000 * seed + epoch


def _save(path: Path, identity: dict, stateful: dict, progress: Progress) -> None:
    state = {name: part.state_dict() for name, part in stateful.items()}
    state |= {"identity": identity, "curve": progress.curve, "peak": progress.peak_mebibytes}
    with atomic(path) as partial:
        torch.save(state, partial)


def _restore(
    path: Path, identity: dict, stateful: dict, progress: Progress, device: torch.device
) -> None:
    state = torch.load(path, map_location=device, weights_only=True)  # tensors and numbers only
    if state["identity"] != identity:
        differ = [name for name, value in identity.items() if state["identity"][name] != value]
        raise ValueError(
            f"the checkpoint must come from the same run, but {path} differs in "
            f"{', '.join(differ)}: delete it, or run without resuming"
        )
    for name, part in stateful.items():
        part.load_state_dict(state[name])
    progress.curve, progress.peak_mebibytes = state["curve"], state["peak"]


def _peak_mebibytes(device: torch.device) -> float:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)
