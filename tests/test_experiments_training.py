"""Training: variants agree step by step, a killed run resumes, records are whole and confirmed."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from disk import room

from sparsemat.experiments import (
    checkpoints,
    datasets,
    devices,
    models,
    provenance,
    records,
    runs,
    training,
    verification,
)
from sparsemat.experiments.__main__ import main
from sparsemat.experiments.configurations import EXPERIMENTS
from sparsemat.experiments.files import RESULTS
from sparsemat.experiments.models.images import BatchNorm
from sparsemat.experiments.tasks import TASKS

QUICK = EXPERIMENTS["mnist"].profiles["quick"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the subprocesses, so that numbers agree to the last bit
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """The record of an uninterrupted quick run, and its file."""
    return runs.run("mnist", "tied", device="cpu", runs=tmp_path_factory.mktemp("whole"))


def command(*arguments):
    return [sys.executable, "-m", "sparsemat.experiments", *map(str, arguments)]


def test_native_and_tied_agree_step_by_step_and_untied_does_not():
    losses = {
        variant: np.array(training.losses(QUICK, variant, 0, 60))
        for variant in ("native", "tied", "untied")
    }
    assert np.abs(losses["native"] - losses["tied"]).max() < 1e-9
    assert abs(losses["native"][0] - losses["untied"][0]) < 1e-12  # the same first matrices
    assert np.abs(losses["native"] - losses["untied"]).max() > 1e-3
    assert losses["native"][-1] < losses["native"][0]


def test_weights_load_across_native_and_tied():
    native, tied = (models.build(QUICK.network, variant, 1) for variant in ("native", "tied"))
    assert native.state_dict().keys() == tied.state_dict().keys()
    images = datasets.load("mnist-sample").test[0][:8]
    other = models.build(QUICK.network, "native", 2)
    for model in (native, tied):
        model.load_state_dict(other.state_dict())
        torch.testing.assert_close(model.eval()(images), other.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("layout", ["features first", "channels last", "contiguous"])
def test_batch_normalisation_is_that_of_torch_in_every_layout(layout, train):
    order = {"features first": (1, 2, 3, 0), "channels last": (0, 2, 3, 1)}.get(layout, range(4))
    x = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    x = x.permute(*order).contiguous().permute(*np.argsort(order).tolist())
    grad, found = torch.randn_like(x), []
    for layer in (BatchNorm(3).double(), torch.nn.BatchNorm2d(3).double()):
        layer.train(train)
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        leaves = leaf, layer.weight, layer.bias
        found.append([y, *torch.autograd.grad(y, leaves, grad), *layer.buffers()])
    assert found[0][0].stride() == x.stride()
    for ours, right in zip(*found, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-10, atol=1e-10)


def test_counts_of_parameters_and_nonzeros():
    tied, untied = (models.build(QUICK.network, variant, 0) for variant in ("tied", "untied"))
    assert untied.conv1.weight.numel() == tied.conv1.pattern.nnz
    trained = sum(net.numel() for net in untied.parameters())
    norms_and_bias = 2 * (16 + 32 + 64) + 10
    assert QUICK.network.nonzeros("tied") == trained - norms_and_bias


def test_the_order_of_examples_depends_on_seed_and_epoch_alone():
    first = torch.cat(training.order(10, 4, 0, 0))
    assert sorted(first.tolist()) == list(range(10))
    torch.rand(3)
    assert torch.equal(first, torch.cat(training.order(10, 4, 0, 0)))
    others = [training.order(10, 4, *at) for at in ((0, 1), (1, 0))]
    assert all(not torch.equal(first, torch.cat(other)) for other in others)


def test_a_run_killed_in_the_middle_resumes_to_the_same_record(whole_run, tmp_path):
    record, _ = whole_run
    arguments = ("run", "mnist", "--variant", "tied", "--device", "cpu", "--runs", tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command(*arguments), env=environment)
    checkpoint = tmp_path / "mnist-tied-0-quick.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)  # into the next epoch
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = len(torch.load(checkpoint, weights_only=True)["curve"])
    assert 0 < done < QUICK.epochs
    assert not list(tmp_path.glob("*.json"))

    subprocess.run(command(*arguments, "--resume"), env=environment, check=True)
    resumed = records.read(tmp_path / "mnist-tied-0.json")
    assert records.comparable(resumed) == records.comparable(record)


def test_two_processes_train_as_one_with_the_same_batches(tmp_path):
    whole, _ = runs.run("etth1", "tied", device="cpu", runs=tmp_path / "one")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = ("run", "etth1", "--variant", "tied", "--device", "cpu", "--devices", "2")
    subprocess.run(
        command(*arguments, "--runs", tmp_path / "two"), env=environment, check=True, timeout=300
    )
    shared = records.read(tmp_path / "two" / "etth1-tied-0-2-processes.json")
    assert shared["device"]["devices"] == 2
    for then, now in zip(whole["curve"], shared["curve"], strict=True):
        for name in ("train_loss", "test_loss", "mse", "valid_loss"):
            assert now[name] == pytest.approx(then[name], rel=1e-5)


def test_early_stopping_watches_examples_it_does_not_train_on():
    fabric = devices.make_fabric("cpu", "32-true")
    patient = replace(
        QUICK, epochs=40, patience=1, learning_rate=0.05, schedule="steps", result="selected"
    )
    curve = training.train(patient, "native", 0, fabric=fabric).curve
    watched = [epoch["valid_loss"] for epoch in curve]
    assert len(curve) < 40
    assert watched[-1] > min(watched) == watched[-2]
    parts = training._parts(patient, datasets.load(QUICK.dataset), 0)
    assert [len(parts[name][0]) for name in ("train", "valid", "test")] == [540, 60, 200]


def test_numbers_below_the_normal_ones_are_zero_in_training_and_nowhere_else(monkeypatch):
    tiny, seen = torch.full((8,), 1e-39), []
    steps = training.steps

    def watched(*arguments, **options):
        for loss in steps(*arguments, **options):
            seen.append((tiny * 1).count_nonzero().item())
            yield loss

    monkeypatch.setattr(training, "steps", watched)
    small = replace(EXPERIMENTS["mnist"].profiles["quick"], epochs=1)
    training.train(small, "native", 0, fabric=devices.make_fabric("cpu", "32-true"))
    assert set(seen) == {0}
    assert (tiny * 1).count_nonzero() == 8


def test_the_step_schedule_falls_at_its_milestones():
    configuration = replace(QUICK, schedule="steps", milestones=(2, 3), factor=0.5, epochs=4)
    model = torch.nn.Linear(1, 1)
    optimizer, schedule = training.make_optimizer(configuration, model, 10)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"] / configuration.learning_rate)
        optimizer.step()
        list(training.steps(model, optimizer, schedule, configuration, None, None, []))
    assert rates == pytest.approx([1, 1, 0.5, 0.25])


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_the_optimiser_is_the_one_named(name, kind):
    optimizer, _ = training.make_optimizer(replace(QUICK, optimizer=name), torch.nn.Linear(1, 1), 9)
    assert type(optimizer).__name__ == kind
    assert optimizer.param_groups[0]["weight_decay"] == QUICK.weight_decay


def test_clipping_bounds_the_step():
    moved = []
    for clip in (None, 1e-3):
        configuration = replace(
            EXPERIMENTS["etth1"].profiles["quick"], optimizer="sgd", clip=clip, learning_rate=1.0
        )
        model = models.build(configuration.network, "free", 0)
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        optimizer, schedule = training.make_optimizer(configuration, model, 999)
        rate, momentum = optimizer.param_groups[0]["lr"], 0.9
        inputs, targets = datasets.load(configuration.dataset).train
        batches = [torch.arange(16)]
        list(training.steps(model, optimizer, schedule, configuration, inputs, targets, batches))
        after = torch.nn.utils.parameters_to_vector(model.parameters())
        decay = rate * configuration.weight_decay * before.norm() * (1 + momentum)
        moved.append((after - before).norm().item() / (rate * (1 + momentum)))
    assert moved[0] > 0.1
    assert moved[1] <= 1e-3 + decay / rate


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    fabric, path = devices.make_fabric("cpu", "32-true"), tmp_path / "x.ckpt"
    training.train(QUICK, "native", 0, fabric=fabric, epochs=1, checkpoint=path)
    other = replace(QUICK, learning_rate=1e-4)
    with pytest.raises(ValueError, match=f"{path} does not: learning_rate was 0.003 and is 0.0001"):
        training.train(other, "native", 0, fabric=fabric, epochs=1, checkpoint=path, resume=True)


@pytest.mark.parametrize("damage", [b"", b"junk", None], ids=["empty", "junk", "truncated"])
def test_a_damaged_checkpoint_is_named_and_left_alone(tmp_path, damage):
    fabric, path = devices.make_fabric("cpu", "32-true"), tmp_path / "x.ckpt"
    training.train(QUICK, "native", 0, fabric=fabric, epochs=1, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"must be whole, but {path} is not"):
        training.train(QUICK, "native", 0, fabric=fabric, epochs=1, checkpoint=path, resume=True)
    assert path.read_bytes() == before


def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path):
    fabric, path = devices.make_fabric("cpu", "32-true"), tmp_path / "x.ckpt"
    training.train(QUICK, "native", 0, fabric=fabric, epochs=1, checkpoint=path)
    before = path.read_bytes()
    with room(len(before) // 2), pytest.raises(OSError, match="File too large"):
        training.train(QUICK, "native", 0, fabric=fabric, epochs=1, checkpoint=path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


RESUMED = {
    "dropout": EXPERIMENTS["ag-news"].profiles["quick"],
    "augmentation": EXPERIMENTS["cifar10"].profiles["quick"],
    "milestones and patience": replace(
        QUICK, schedule="steps", milestones=(1, 2), factor=0.5, patience=5, epochs=3
    ),
}


@pytest.mark.parametrize("what", RESUMED)
def test_a_run_in_two_parts_ends_as_one(tmp_path, what):
    configuration, path = replace(RESUMED[what], epochs=3), tmp_path / "x.ckpt"
    train = partial(
        *(training.train, configuration, "tied", 0),
        fabric=devices.make_fabric("cpu", "32-true"),
    )
    whole = train()
    train(epochs=1, checkpoint=path)
    torch.rand(7)  # what else the process draws does not matter
    parts = train(checkpoint=path, resume=True)
    assert [epoch | {"seconds": 0} for epoch in parts.curve] == [
        epoch | {"seconds": 0} for epoch in whole.curve
    ]
    assert training.weights_sha256(parts.model) == training.weights_sha256(whole.model)


@pytest.mark.parametrize("experiment", ["mnist", "ptb"])
def test_mixed_precision_trains_about_as_well(experiment):
    configuration = replace(EXPERIMENTS[experiment].profiles["quick"], epochs=2)
    losses = {}
    for precision in devices.PRECISIONS:
        fabric = devices.make_fabric("cpu", precision)
        progress = training.train(configuration, "tied", 0, fabric=fabric)
        losses[precision] = [epoch["test_loss"] for epoch in progress.curve]
        assert {p.dtype for p in progress.model.parameters()} == {torch.float32}
    exact, mixed = losses.values()
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.1)


class Rank:
    """What training asks of Fabric, as one of several processes, without the others."""

    def __init__(self, rank, world):
        self.global_rank, self.world_size, self.device = rank, world, torch.device("cpu")

    def backward(self, loss):
        loss.backward()


@pytest.mark.parametrize("count", [3, 6, 7], ids="{} examples".format)
def test_the_parts_of_all_processes_are_the_loss_of_the_batch(count):
    configuration, losses = EXPERIMENTS["etth1"].profiles["quick"], []
    inputs, targets = datasets.load(configuration.dataset).train
    for rank, world in ((0, 1), *((rank, 4) for rank in range(4))):
        model = models.build(configuration.network, "tied", 0)
        optimizer, schedule = training.make_optimizer(configuration, model, 99)
        batches = [torch.arange(count)]
        (loss,) = training.steps(
            *(model, optimizer, schedule, configuration, inputs, targets, batches),
            fabric=Rank(rank, world),
        )
        losses.append(loss.item())
    assert sum(losses[1:]) == pytest.approx(losses[0])


def test_normalisation_over_processes_on_a_cpu_is_refused():
    network = models.build(QUICK.network, "tied", 0)
    with pytest.raises(ValueError, match=r"one process on a CPU.*got 2"):
        devices.synchronised(network, Rank(0, 2))


def test_a_record_says_what_was_run(whole_run):
    record, path = whole_run
    assert records.read(path) == record
    assert path.name == "mnist-tied-0.json"
    assert record["data"]["subset"] and record["data"]["train"] == 600
    assert [epoch["epoch"] for epoch in record["curve"]] == list(range(1, QUICK.epochs + 1))
    assert record["last"] == record["curve"][-1]
    assert record["best"]["accuracy"] == max(epoch["accuracy"] for epoch in record["curve"])
    assert record["last"]["accuracy"] > 80
    assert record["configuration"]["network"]["layers"] == [16, "P", 32, "P", 64, "P"]


def test_a_record_is_never_half_written(whole_run, tmp_path, monkeypatch):
    record, _ = whole_run
    path = records.write(record, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        records.write({**record, "nonzeros": 0}, tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        pytest.param("{", "must be JSON", id="cut"),
        pytest.param('{"seed": 0}', "has no experiment, variant", id="fields"),
        pytest.param("5", "must be an object, but .* holds 5", id="number"),
        pytest.param("null", "must be an object, but .* holds None", id="null"),
        pytest.param("[1, 2]", r"must be an object, but .* holds \[1, 2\]", id="list"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path, content, rule):
    path = tmp_path / "mnist-tied-0.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rule) as caught:
        records.read(path)
    assert str(path) in str(caught.value)


def changed(record, *where, value=None):
    """A copy of a record with another value at a place; without a value the place is deleted."""
    made = json.loads(json.dumps(record))
    inner = made
    for key in where[:-1]:
        inner = inner[key]
    if value is None:
        del inner[where[-1]]
    else:
        inner[where[-1]] = value
    return made


def with_curve(record, curve, **fields):
    """A record of a curve, with what is taken from it."""
    best = max(curve, key=lambda epoch: epoch["accuracy"], default=None)
    last = curve[-1] if curve else None
    return json.loads(json.dumps(record | {"curve": curve, "best": best, "last": last} | fields))


def cut_to_its_best(record):
    return with_curve(record, record["curve"][:2])


def with_invented_epochs(record):
    more = [record["curve"][-1] | {"epoch": epoch, "accuracy": 99.0} for epoch in range(7, 17)]
    return with_curve(record, [*record["curve"], *more])


FORGERIES = {
    "cut": (cut_to_its_best, "the run's 6 epochs, got 2"),
    "lengthened": (with_invented_epochs, "the run's 6 epochs, got 16"),
    "empty": (lambda r: with_curve(r, []), "the run's 6 epochs, got 0"),
}
CHANGES = {
    "metric": (("metric",), "train_loss", "must be 'accuracy', got 'train_loss'"),
    "budget": (("budget",), 1, "the run's 1 epochs, got 6"),
    "no budget": (("budget",), 7, "budget must be from 1 to 6 epochs, got 7"),
    "last": (("last", "accuracy"), 1e-9, "last must be the curve's .*got .*1e-09"),
    "best": (("best", "accuracy"), 100.0, "best must be the curve's .*got .*100.0"),
    "selected": (("selected",), {"epoch": 1}, "selected must be the curve's None"),
    "missing name": (("curve", 0, "test_loss"), None, "must have epoch 1: test_loss"),
    "missing name later": (("curve", 3, "test_loss"), None, "must have epoch 4: test_loss"),
    "extra name": (("curve", 0, "x"), 1.0, "must have epoch 2: x"),
    "extra name later": (("curve", 3, "x"), 1.0, r"equal names, but epoch 4 has \['x'\] too"),
    "epochs": (("curve", 2, "epoch"), 4, "from 1 on, got 4 in place 3"),
    "text": (("curve", 2, "accuracy"), "99", "accuracy must be int | float, got '99'"),
    "experiment": (("experiment",), "foo", "experiment must be one of .*got 'foo'"),
    "variant": (("variant",), "foo", "variant must be one of .*got 'foo'"),
    "profile": (("profile",), "foo", "profile must be one of .*got 'foo'"),
    "precision": (("configuration", "precision"), None, "must have configuration.precision"),
    "result": (("configuration", "result"), "first", "last or selected epoch, got 'first'"),
    "watched": (("configuration", "patience"), 3, "must have epoch 1: valid_loss"),
    "device": (("device",), "cpu", "device must be an object, got 'cpu'"),
    "processes": (("device", "devices"), "2", "device.devices must be int, got '2'"),
    "seed": (("seed",), True, "seed must be int, got True"),
}


@pytest.mark.parametrize("command", ["table", "verify"])
@pytest.mark.parametrize("forgery", [*FORGERIES, *CHANGES])
def test_a_record_that_no_run_wrote_is_refused(whole_run, tmp_path, capsys, command, forgery):
    record = whole_run[0]
    if forgery in CHANGES:
        where, value, rule = CHANGES[forgery]
        forged = changed(record, *where, value=value)
    else:
        forge, rule = FORGERIES[forgery]
        forged = forge(record)
    path = tmp_path / "mnist-tied-0.json"
    path.write_text(json.dumps(forged))
    what = ["table", "--results", str(tmp_path)] if command == "table" else ["verify", str(path)]
    assert main(what) == 2
    message = capsys.readouterr().err
    assert re.search(rule, message) and str(path) in message and message.count("\n") == 1


@pytest.mark.parametrize("patience", [None, 1, 2, 4])
@pytest.mark.parametrize("losses", [[3, 2, 1, 1, 2, 3], [1, 2, 3], [1, math.nan, 2], [2, 1]])
def test_a_run_stops_once_no_epoch_of_its_patience_was_better(losses, patience):
    curve = [{"epoch": at, "valid_loss": loss} for at, loss in enumerate(losses, 1)]
    finite = [math.inf if math.isnan(loss) else loss for loss in losses]
    for count in range(len(curve) + 1):
        least = min(range(count), key=finite.__getitem__, default=0)
        right = bool(patience and count) and count - 1 - least >= patience
        assert records.has_stopped(patience, curve[:count]) == right


PATIENT = EXPERIMENTS["mnist"].profiles["paper"]


@pytest.mark.parametrize(
    ("count", "rule"), [(12, None), (11, "150 epochs, got 11"), (13, "12 epochs, got 13")]
)
def test_patience_alone_explains_a_short_curve(whole_run, tmp_path, count, rule):
    epoch, losses = whole_run[0]["curve"][0], [1.0, 0.5, *[0.9] * 11]
    curve = [
        epoch | {"epoch": at, "valid_loss": loss, "valid_accuracy": 1.0}
        for at, loss in enumerate(losses[:count], 1)
    ]
    fields = {"profile": "paper", "configuration": asdict(PATIENT), "selected": curve[1]}
    path = records.write(with_curve(whole_run[0], curve, **fields), tmp_path)
    if rule is None:
        assert records.result(records.read(path))["epoch"] == 2
    else:
        with pytest.raises(ValueError, match=rule):
            records.read(path)


def test_every_committed_record_is_read_and_has_its_name():
    found = sorted(RESULTS.glob("*-*.json"))
    assert len(found) > 100
    assert [records.name_of(records.read(path)) for path in found] == [p.stem for p in found]


def test_a_metric_that_is_no_number_is_never_the_best():
    curve = [{"epoch": at, "mse": value} for at, value in enumerate([math.nan, 2.0, 1.0], 1)]
    assert records.best(curve, TASKS["forecast"]) == curve[2]
    curve = [{"epoch": at, "accuracy": value} for at, value in enumerate([math.nan, 2.0, 1.0], 1)]
    assert records.best(curve, TASKS["classification"]) == curve[1]


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_a_run_that_diverged_is_confirmed_by_one_that_does(whole_run, tmp_path, monkeypatch, value):
    curve = [epoch | {"test_loss": value} for epoch in whole_run[0]["curve"]]
    path = records.write(with_curve(whole_run[0], curve), tmp_path)
    again = training.Progress(models.build(QUICK.network, "tied", 0), curve)
    monkeypatch.setattr(training, "train", lambda *_, **__: again)
    assert verification.verify(path, device="cpu").found == []


def test_an_honest_quick_record_is_confirmed_exactly_whatever_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    _, path = runs.run("etth1", "free", device="cpu", runs=tmp_path)
    torch.set_num_threads(2)
    try:
        found = verification.verify(path, full=True, device="cpu")
    finally:
        torch.set_num_threads(1)
    assert (found.tier, found.found, found.epochs) == (verification.EXACT, [], 5)
    assert "weights_sha256" in found.checked and "metric" in found.checked


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        pytest.param(
            lambda epoch: epoch | {"x": 1.0}, "the run has no x, the record has", id="extra"
        ),
        pytest.param(
            lambda epoch: {n: v for n, v in epoch.items() if n != "valid_mse"},
            "epoch 1: the record has no valid_mse",
            id="missing",
        ),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_verify_takes_the_names_from_the_run(tmp_path, forge, said, full):
    record, _ = runs.run("etth1", "free", device="cpu", runs=tmp_path)
    curve = [forge(epoch) for epoch in record["curve"]]
    best = min(curve, key=lambda epoch: epoch["mse"])
    record |= {"curve": curve, "best": best, "last": curve[-1]}
    record["selected"] = forge(record["selected"])
    path = records.write(record, tmp_path)
    found = verification.verify(path, full=full, device="cpu")
    assert said in found.found


@pytest.mark.parametrize("same", [True, False], ids=["same code", "other code"])
def test_a_run_that_ends_earlier_is_no_confirmation_of_the_rest(
    whole_run, tmp_path, monkeypatch, same
):
    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    record = whole_run[0] | {"commit": "a" * 40 if same else "b" * 40}
    model = models.build(QUICK.network, "tied", 0)
    short = training.Progress(model, record["curve"][:4])
    monkeypatch.setattr(training, "train", lambda *_, **__: short)
    found = verification.verify(records.write(record, tmp_path), full=True, device="cpu")
    assert found.epochs == 4 and "epochs 5 to 6" in found.unchecked
    assert found.found == ["the run ends after 4 epochs, the record says 6"] * same


def test_verify_confirms_a_record_and_says_how_far(whole_run, capsys):
    _, path = whole_run
    assert main(["verify", str(path), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 6 epochs run again" in shown
    assert re.search("\ncompared: .*train_loss, test_loss, accuracy", shown)
    assert re.search("not compared: epochs 2 to 6, weights_sha256", shown)


@pytest.mark.parametrize("committed", [True, False], ids=["same code", "other code"])
def test_verify_compares_the_weights_after_all_epochs_of_the_same_code(
    whole_run, tmp_path, monkeypatch, committed
):
    monkeypatch.setattr(provenance, "commit", lambda: "a" * 40)
    forged = {**whole_run[0], "weights_sha256": "0" * 64}
    forged["commit"] = "a" * 40 if committed else "b" * 40
    again = runs.run("mnist", "tied", device="cpu", runs=tmp_path / "again")[1]
    progress = checkpoints.read(again.with_name("mnist-tied-0-quick.ckpt"))
    model = models.build(QUICK.network, "tied", 0)
    model.load_state_dict(progress["model"])
    monkeypatch.setattr(
        training, "train", lambda *_, **__: training.Progress(model, progress["curve"])
    )
    found = verification.verify(records.write(forged, tmp_path), full=True, device="cpu")
    assert found.tier == (verification.EXACT if committed else verification.ROUNDED)
    assert ("weights_sha256" in found.unchecked) == (not committed)
    assert [text.startswith("the weights are") for text in found.found] == [True] * committed


@pytest.mark.parametrize("name", ["test_loss", "accuracy"])
def test_verify_finds_halved_test_errors_of_another_commit(whole_run, tmp_path, name):
    forged = json.loads(json.dumps(whole_run[0])) | {"commit": "b" * 40}
    for epoch in forged["curve"]:
        epoch[name] = (100 + epoch[name]) / 2 if name == "accuracy" else epoch[name] / 2
    forged["last"] = forged["curve"][-1]
    forged["best"] = max(forged["curve"], key=lambda epoch: epoch["accuracy"])
    found = verification.verify(records.write(forged, tmp_path), device="cpu")
    assert found.tier == verification.ROUNDED
    assert any(f"epoch 1: {name} is" in text for text in found.found)


@pytest.mark.parametrize(
    ("where", "value", "found"),
    [
        pytest.param(("curve", 0, "train_loss"), 9.0, "epoch 1: train_loss is", id="loss"),
        pytest.param(("curve", 0, "train_loss"), math.nan, "the record says nan", id="nan"),
        pytest.param(("parameters",), 1, "parameters was 1 and is", id="parameters"),
        pytest.param(("data", "train"), 60_000, "train was 60000 and is 600", id="data"),
        pytest.param(
            ("configuration", "batch_size"), 9, "batch_size was 9 and is 50", id="configuration"
        ),
    ],
)
def test_verify_finds_a_changed_number(whole_run, tmp_path, capsys, where, value, found):
    path = records.write(changed(whole_run[0], *where, value=value), tmp_path)
    assert main(["verify", str(path), "--device", "cpu"]) == 1
    assert found in capsys.readouterr().out


@pytest.mark.parametrize("epochs", [0, 7])
def test_verify_refuses_epochs_that_the_record_does_not_have(whole_run, capsys, epochs):
    assert main(["verify", str(whole_run[1]), "--epochs", str(epochs)]) == 2
    assert f"from 1 to the record's 6, got {epochs}" in capsys.readouterr().err


def test_the_commit_is_that_of_the_code_that_ran(tmp_path, monkeypatch):
    commits = iter(["before", "after"])
    monkeypatch.setattr(provenance, "commit", lambda: next(commits))
    record, _ = runs.run("etth1", "free", device="cpu", runs=tmp_path)
    assert record["commit"] == "before"


@pytest.mark.parametrize("change", [None, "dropout"])
def test_a_field_younger_than_a_record_had_its_default(whole_run, tmp_path, monkeypatch, change):
    configuration = EXPERIMENTS["ptb"].profiles["quick"]
    record = json.loads(json.dumps(whole_run[0])) | {"experiment": "ptb", "variant": "tied"}
    record["configuration"] = asdict(configuration)
    curve = [
        epoch | {"perplexity": 100 - epoch["accuracy"]}
        for epoch in record["curve"][: configuration.epochs]
    ]
    best = min(curve, key=lambda epoch: epoch["perplexity"])
    record |= {"curve": curve, "best": best, "last": curve[-1], "metric": "perplexity"}
    record["data"]["fingerprint"] = datasets.load(configuration.dataset).fingerprint
    del record["configuration"]["patience"], record["configuration"]["network"]["readout_dropout"]
    if change:
        record["configuration"]["network"][change] += 0.1
    again = training.Progress(torch.nn.Identity(), record["curve"])
    monkeypatch.setattr(training, "train", lambda *_, **__: again)
    path = records.write(record, tmp_path)
    found = verification.verify(path, device="cpu").found
    assert [sentence.split(" was ")[0] for sentence in found if "configuration" in sentence] == [
        f"the configuration has changed since the record: {change}"
    ] * bool(change)


def test_a_table_of_different_runs_is_refused(whole_run, tmp_path, capsys):
    record, _ = whole_run
    slower = {**record["configuration"], "learning_rate": 1e-4}
    records.write(record, tmp_path)
    records.write({**record, "seed": 1, "configuration": slower}, tmp_path)
    assert main(["table", "--results", str(tmp_path)]) == 2
    assert "learning_rate was 0.003 and is 0.0001" in capsys.readouterr().err
    assert main(["table", "--results", str(tmp_path / "none")]) == 2
    assert f"must hold some, got {tmp_path / 'none'}" in capsys.readouterr().err


def test_the_table_keeps_data_devices_and_budgets_apart(whole_run):
    record = whole_run[0]
    others = [
        {"data": {**record["data"], "subset": None, "fingerprint": "other"}},
        {"device": {**record["device"], "type": "cuda"}},
        {"configuration": {**record["configuration"], "precision": "bf16-mixed"}},
        {"budget": 3},
    ]
    found = records.table([record, *(record | other for other in others)])
    assert list(found["seeds"]) == [1] * 5


def test_the_table_shows_the_last_epoch_over_seeds(whole_run, tmp_path, capsys):
    record, _ = whole_run
    for seed, accuracy in ((0, 90.0), (1, 94.0)):
        last = {**record["last"], "accuracy": accuracy}
        records.write(with_curve({**record, "seed": seed}, [*record["curve"][:-1], last]), tmp_path)
    row = records.table(records.read_all(tmp_path)).iloc[0]
    assert (row["variant"], row["seeds"], row["metric"]) == ("tied", 2, 92.0)
    assert row["spread"] == pytest.approx(8**0.5)
    assert (row["paper"], row["paper epoch"]) == (92.48, 38)
    assert main(["table", "--csv", "--results", str(tmp_path)]) == 0
    assert "mnist,quick,tied,2,accuracy,92.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        pytest.param(["mnits"], r"the experiment must be one of .*got 'mnits'", id="experiment"),
        pytest.param(["mnist", "--variant", "dense"], r"variant must be .*'dense'", id="variant"),
        pytest.param(["mnist", "--profile", "slow"], r"profile must be .*'slow'", id="profile"),
        pytest.param(["mnist", "--precision", "16-mixed"], r"one of .*'16-mixed'", id="precision"),
        pytest.param(["mnist", "--device", "tpu"], r"device must be .*'tpu'", id="device"),
        pytest.param(["mnist", "--devices", "0"], r"devices must be at least 1, got 0", id="0"),
        pytest.param(["mnist", "--seed", "-1"], r"seed must be from 0 .*got -1", id="seed"),
        pytest.param(["mnist", "--epochs", "7"], r"from 1 to the profile's 6, got 7", id="epochs"),
        pytest.param(["mnist", "--resume", "--overwrite"], r"resume or overwrite", id="both"),
    ],
)
def test_unknown_names_are_refused_before_any_work(arguments, rule, tmp_path, capsys):
    assert main(["run", *arguments, "--runs", str(tmp_path)]) == 2
    assert re.search(rule, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", ["json", "ckpt"])
def test_an_earlier_run_is_replaced_only_if_asked_to(tmp_path, capsys, left):
    arguments = ["run", "etth1", "--variant", "free", "--device", "cpu", "--runs", str(tmp_path)]
    assert main(arguments) == 0
    for path in tmp_path.iterdir():
        if path.suffix != f".{left}":
            path.unlink()
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "--resume" in message and "--overwrite" in message
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    assert main([*arguments, "--overwrite"]) == 0


def test_a_run_with_its_record_is_not_run_again(tmp_path, monkeypatch):
    options = {"device": "cpu", "runs": tmp_path, "resume": True}
    record, path = runs.run("etth1", "free", **options)
    monkeypatch.setattr(training, "train", None)
    assert runs.run("etth1", "free", **options) == (record, path)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("configuration", {"learning_rate": 7.0}, "learning_rate was 7.0 and is"),
        ("data", {"fingerprint": "other"}, "fingerprint was 'other' and is"),
    ],
    ids=["settings", "data"],
)
def test_a_record_of_another_run_is_not_taken_for_this_one(tmp_path, part, changes, message):
    options = {"device": "cpu", "runs": tmp_path, "resume": True}
    record, path = runs.run("etth1", "free", **options)
    records.write(record | {part: record[part] | changes}, tmp_path)
    with pytest.raises(ValueError, match=message):
        runs.run("etth1", "free", **options)
    path.unlink()
    assert records.comparable(runs.run("etth1", "free", **options)[0]) == (
        records.comparable(record)
    )


def test_a_budget_is_said_by_record_and_name(tmp_path):
    record, path = runs.run("etth1", "free", 3, device="cpu", runs=tmp_path, epochs=2)
    assert (record["budget"], len(record["curve"])) == (2, 2)
    assert path.name == "etth1-free-3-2-epochs.json"
    assert records.group_of(record).budget == 2


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "mnist-tied-0"),
        ({"profile": "paper"}, "mnist-paper-tied-0"),
        ({"device": "cuda", "precision": "bf16-mixed"}, "mnist-tied-0-bf16-mixed-cuda"),
        ({"processes": 4, "budget": 2}, "mnist-tied-0-2-epochs-4-processes"),
    ],
    ids=["full", "paper", "gpu", "processes"],
)
def test_runs_with_other_flags_have_other_names(flags, name):
    assert records.name("mnist", "tied", 0, **{"profile": "full"} | flags) == name


def test_the_selected_epoch_is_the_first_with_the_least_validation_loss():
    losses = [math.nan, 2.0, 1.0, 1.0, 3.0]
    curve = [{"epoch": n, "valid_loss": loss} for n, loss in enumerate(losses, 1)]
    assert records.selected(curve)["epoch"] == 3
    assert records.selected([{"epoch": 1}]) is None


def test_the_result_of_the_papers_recipe_is_the_selected_epochs(whole_run):
    record = json.loads(json.dumps(whole_run[0])) | {"profile": "paper"}
    record["selected"] = record["curve"][1]
    record["configuration"]["result"] = "selected"
    assert records.result(record) == record["curve"][1]
    record["configuration"]["result"] = "last"
    assert records.result(record) == record["curve"][-1]


def test_a_run_broken_off_by_the_keyboard_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert main(["run", "etth1", "--device", "cpu", "--runs", str(tmp_path)]) == 130
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--resume" in message


def test_a_pipe_that_closes_early_is_no_error():
    shell = f"set -o pipefail; {sys.executable} -m sparsemat.experiments table | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_imports_what_it_needs_and_no_more():
    heavy = "lightning_fabric", "pandas", "scipy", "sympy", "z3", "matplotlib", "torchvision"
    code = (
        f"import sparsemat.experiments.runs, sys; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_gpu_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["run", "mnist", "--device", "cuda", "--runs", str(tmp_path)]) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_the_list_names_every_experiment(capsys):
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_paper_recipe_is_that_of_table_1(name):
    recipe = EXPERIMENTS[name].profiles["paper"]
    assert recipe.optimizer == "adam" and recipe.schedule == "steps"
    assert recipe.clip is None and recipe.augmentation == "none"
    expected = {  # batch, rate, epochs, decay of weights, patience, milestones, factor
        "mnist": (64, 1e-3, 150, 0, 10, (), 1),
        "cifar10": (128, 1e-3, 150, 0, None, (), 1),
        "cifar100": (128, 0.1, 200, 5e-4, 10, (60, 120, 160), 0.2),
        "tiny-imagenet": (128, 1e-3, 20, 0, 5, (5, 10, 15), 0.9),
        "etth1": (128, 1e-3, 200, 0, None, (), 1),
        "electricity": (128, 1e-3, 100, 0, None, (), 1),
        "ag-news": (128, 1e-3, 100, 0, None, (), 1),
        "wikitext-2": (128, 1e-3, 100, 0, None, (), 1),
        "ptb": (128, 1e-3, 100, 0, None, (), 1),
    }
    assert (
        *(recipe.batch_size, recipe.learning_rate, recipe.epochs, recipe.weight_decay),
        *(recipe.patience, recipe.milestones, recipe.factor),
    ) == expected[name]
