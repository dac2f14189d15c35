"""Training: deterministic, on Lightning Fabric, with checkpoints that a kill cannot spoil.

The order of the examples and the random numbers of an epoch follow from the seed and the number of
the epoch alone, so a checkpoint at the end of an epoch holds all that the rest of a run depends on.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR
from tqdm import tqdm

from . import checkpoints, datasets, models
from .augmentation import AUGMENTATIONS
from .configurations import Configuration
from .devices import flush_subnormals, peak_mebibytes, synchronised
from .records import has_stopped
from .tasks import TASKS, Task

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

EVALUATION_BATCH = 250
HELD_OUT = 0.1  # of the training examples, where an epoch is chosen without a validation set


@dataclass
class Progress:
    """How far a run has come.

    Args:
        model: The network.
        curve: One entry an epoch: ``epoch`` from 1, ``train_loss`` (mean over its steps),
            ``test_loss``, the task's metric, the same two of the validation examples where there
            are any (``valid_loss``, ``valid_`` metric), and the ``seconds`` of training.
        peak_mebibytes: Most memory in use so far: the GPU's where there is one, else the process's.
    """

    model: nn.Module
    curve: list[dict] = field(default_factory=list)
    peak_mebibytes: float = 0.0

    @property
    def frame(self) -> pd.DataFrame:
        """The curve as a table: one row an epoch."""
        import pandas as pd

        return pd.DataFrame(self.curve).set_index("epoch")


@flush_subnormals()
def train(
    configuration: Configuration,
    variant: str,
    seed: int,
    *,
    fabric: Fabric,
    epochs: int | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    show: bool | None = None,
) -> Progress:
    """Train one variant of a network.

    Args:
        configuration: What to train, on what and how.
        variant: Which variant.
        seed: Seed of the initial weights, of the order of the examples and of dropout.
        fabric: The device; see :func:`devices.make_fabric`.
        epochs: Stop after this many of the configuration's epochs.
        checkpoint: File that is replaced at the end of every epoch.
        resume: Whether to go on from the checkpoint, if there is one.
        show: Whether to show the progress, with the last epoch's loss and metric; None shows it on
            a terminal alone.

    Raises:
        ValueError: The checkpoint is damaged or belongs to another run, or several processes on
            CPUs would each normalise their part of a batch by itself.
        OSError: The checkpoint cannot be written.
    """
    task, data = TASKS[configuration.task], datasets.load(configuration.dataset)
    parts = {
        name: tuple(tensor.to(fabric.device) for tensor in part)
        for name, part in _parts(configuration, data, seed).items()
    }
    inputs, targets = parts.pop("train")
    model = models.build(configuration.network, variant, seed)
    if fabric.world_size > 1:
        model = synchronised(model, fabric)
    optimizer, schedule = make_optimizer(configuration, model, len(inputs))
    forward, stepper = fabric.setup(model, optimizer)

    identity = {"configuration": asdict(configuration), "variant": variant, "seed": seed}
    identity["data"] = data.fingerprint
    identity["device"], identity["processes"] = fabric.device.type, fabric.world_size
    stateful = {"model": model, "optimizer": optimizer, "schedule": schedule}
    progress = Progress(model)
    if checkpoint is not None and resume:
        # read once: the other processes may be on machines that do not have the file
        kept = checkpoints.read(checkpoint, identity) if fabric.is_global_zero else None
        _restore(fabric.broadcast(kept), stateful, progress)

    last = configuration.epochs if epochs is None else epochs
    per_epoch = -(-len(inputs) // configuration.batch_size)
    bar = tqdm(
        total=last * per_epoch,
        initial=len(progress.curve) * per_epoch,
        desc=f"{configuration.dataset} {variant} {seed}",
        # silent where nobody watches, and in all processes but one
        disable=(None if show is None else not show) if fabric.is_global_zero else True,
        # text, which a notebook shows too, and which leaves no widget behind in it
        file=sys.stdout if show else None,
        mininterval=1.0,
    )
    for epoch in range(len(progress.curve), last):
        if has_stopped(configuration.patience, progress.curve):
            break
        started = time.perf_counter()
        # dropout differs from process to process, the changes of the images must not
        torch.manual_seed(_epoch_seed(seed, epoch, fabric.global_rank))
        generator = torch.Generator().manual_seed(_epoch_seed(seed, epoch))
        batches = order(len(inputs), configuration.batch_size, seed, epoch)
        # one tensor for all: a small one kept from every step would pin the freed memory around it
        losses = torch.zeros(len(batches), dtype=torch.float64, device=fabric.device)
        forward.train()
        stepped = steps(
            *(forward, stepper, schedule, configuration, inputs, targets, batches),
            fabric=fabric,
            generator=generator,
        )
        for at, loss in enumerate(stepped):
            losses[at] = loss.detach()
            bar.update()
        train_loss = fabric.all_reduce(losses, reduce_op="sum").mean().item()
        seconds = time.perf_counter() - started
        found = {}
        for name, part in parts.items():
            loss, metric = evaluate(model, task, *part, fabric)
            prefix = "" if name == "test" else f"{name}_"
            found |= {f"{name}_loss": loss, f"{prefix}{task.metric}": metric}
        progress.curve.append(
            {"epoch": epoch + 1, "train_loss": train_loss, **found, "seconds": round(seconds, 3)}
        )
        progress.peak_mebibytes = max(progress.peak_mebibytes, peak_mebibytes(fabric.device))
        shown = {"loss": train_loss, task.metric: progress.curve[-1][task.metric]}
        bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})
        if checkpoint is not None and fabric.is_global_zero:
            checkpoints.save(
                *(checkpoint, identity, stateful, progress.curve, progress.peak_mebibytes)
            )
    bar.close()
    return progress


def steps(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    configuration: Configuration,
    inputs: Tensor,
    targets: Tensor,
    batches: Iterable[Tensor],
    fabric: Fabric | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Take one step a batch, and yield this process's part of the loss before it.

    Args:
        model: The network.
        optimizer: Its optimiser.
        schedule: Advanced once a step where it is a one-cycle, else once an epoch.
        configuration: Gives the loss, the augmentation and the clipping.
        inputs: All training inputs, first axis examples.
        targets: All training targets.
        batches: Index tensors into them: the batches of an epoch, over all processes together.
        fabric: The processes; without it there is one.
        generator: Draws the augmentation, alike in all processes; torch's own if None.

    Yields:
        The mean loss of this process's examples times their share of the batch, so that the sum
        over processes is the mean loss of the batch.
    """
    task = TASKS[configuration.task]
    rank, world = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    every_step = configuration.schedule == "one-cycle"
    for batch in batches:
        change = AUGMENTATIONS[configuration.augmentation](len(batch), generator)
        mine = torch.arange(rank, len(batch), world)
        share = len(mine) / len(batch)
        if not share:  # a last batch may be too small for all; each must take the step
            mine = torch.zeros(1, dtype=torch.int64)
        at = batch[mine].to(inputs.device)
        x, y = change(inputs[at], mine), targets[at]
        loss = task.loss(task.outputs(model, x, y), y)
        optimizer.zero_grad()
        # gradients are averaged over the processes, so a share counts as many times as there are
        scaled = loss * (share * world) if world > 1 else loss
        fabric.backward(scaled) if fabric else scaled.backward()
        if configuration.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), configuration.clip)
        optimizer.step()
        if every_step:
            schedule.step()
        yield loss * share if world > 1 else loss
    if not every_step:
        schedule.step()


def losses(
    configuration: Configuration,
    variant: str,
    seed: int,
    count: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> list[float]:
    """The losses of the first steps, in a chosen precision: for comparing variants step by step.

    Args:
        configuration: What to train, on what and how.
        variant: Which variant.
        seed: As for :func:`train`.
        count: Number of steps.
        dtype: Precision of weights and activations.
        device: Where to compute.

    Returns:
        ``count`` losses, each before its step.
    """
    inputs, targets = datasets.load(configuration.dataset).train
    if targets.is_floating_point():
        targets = targets.to(dtype)
    inputs, targets = inputs.to(device), targets.to(device)
    model = models.build(configuration.network, variant, seed).to(device, dtype)
    optimizer, schedule = make_optimizer(configuration, model, len(inputs))
    torch.manual_seed(_epoch_seed(seed, 0))
    found: list[float] = []
    epoch = 0
    while len(found) < count:
        batches = order(len(inputs), configuration.batch_size, seed, epoch)[: count - len(found)]
        stepped = steps(model, optimizer, schedule, configuration, inputs, targets, batches)
        found += [loss.item() for loss in stepped]
        epoch += 1
    return found


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, inputs: Tensor, targets: Tensor, fabric: Fabric
) -> tuple[float, float]:
    """Mean loss and the task's metric over all examples, which the processes share.

    The model is the bare one: the processes need not agree on how many batches they take.
    """
    model.eval()
    sums = torch.zeros(2, dtype=torch.float64, device=inputs.device)
    mine = torch.arange(fabric.global_rank, len(inputs), fabric.world_size, device=inputs.device)
    for at in mine.split(EVALUATION_BATCH):
        x, y = inputs[at], targets[at]
        with fabric.autocast():
            outputs = task.outputs(model, x, y).float()
        sums += torch.stack([task.loss(outputs, y) * len(at), task.score(outputs, y)]).double()
    loss, score = (fabric.all_reduce(sums, reduce_op="sum") / len(inputs)).tolist()
    return loss, task.report(score)


def order(count: int, batch_size: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The batches of an epoch: a permutation of ``range(count)``, cut; the last may be smaller."""
    generator = torch.Generator().manual_seed(_epoch_seed(seed, epoch))
    return torch.randperm(count, generator=generator).split(batch_size)


def make_optimizer(
    configuration: Configuration, model: nn.Module, examples: int
) -> tuple[Optimizer, LRScheduler]:
    """The configuration's optimiser, and its schedule over all steps or epochs of a run."""
    rate, decay = configuration.learning_rate, configuration.weight_decay
    make = {"adamw": AdamW, "adam": Adam, "sgd": partial(SGD, momentum=0.9, nesterov=True)}
    optimizer = make[configuration.optimizer](model.parameters(), lr=rate, weight_decay=decay)
    if configuration.schedule == "steps":
        milestones = list(configuration.milestones)
        return optimizer, MultiStepLR(optimizer, milestones, gamma=configuration.factor)
    total = configuration.epochs * -(-examples // configuration.batch_size)
    return optimizer, OneCycleLR(optimizer, max_lr=rate, total_steps=total)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over the names and values of all parameters and buffers that are saved."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _parts(
    configuration: Configuration, data: datasets.Dataset, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Training, test and, where there are any, validation examples."""
    parts = {"train": data.train, "test": data.test}
    if data.valid is not None:
        parts["valid"] = data.valid
    elif configuration.patience is not None or configuration.result == "selected":
        inputs, targets = data.train
        count = round(HELD_OUT * len(inputs))
        shuffled = order(len(inputs), len(inputs), seed, -1)[0]
        for name, at in (("valid", shuffled[:count]), ("train", shuffled[count:])):
            parts[name] = inputs[at], targets[at]
    return parts


def _epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    return 1_000_000_000 * rank + 10_000 * seed + epoch


def _restore(state: dict | None, stateful: dict, progress: Progress) -> None:
    if state is None:
        return
    for name, part in stateful.items():
        part.load_state_dict(state[name])
    progress.curve, progress.peak_mebibytes = state["curve"], state["peak"]
