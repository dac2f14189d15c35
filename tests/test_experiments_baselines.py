"""Baselines: against loops over the windows, numpy and scipy."""

import json

import numpy as np
import pytest
import scipy.linalg
import torch

from sparsemat.experiments import baselines, models, records
from sparsemat.experiments.__main__ import main
from sparsemat.experiments.datasets import Dataset, load
from sparsemat.experiments.datasets.series import windows
from sparsemat.experiments.models import SeriesNetwork
from sparsemat.experiments.tasks import TASKS

WINDOW = 5


@pytest.fixture(scope="module", params=[0, 30], ids=["no validation part", "validation part"])
def data(request):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 2)).cumsum(axis=0)
    return windows("made", rows, window=WINDOW, train=120, valid=request.param, test=50)


def arrays(part):
    """Windows and targets as float64 arrays, the windows made one by one."""
    return np.array([x.numpy() for x in part[0]], float), part[1].numpy().astype(float)


def solve(part, penalty):
    """The weights and the constant, by scipy's least squares on the windows written out."""
    x, y = arrays(part)
    change, flat = y - x[:, -1], x.reshape(len(x), -1)
    centred = flat - flat.mean(0)
    root = np.sqrt(len(flat) * penalty) * np.eye(flat.shape[1])
    zeros = np.zeros((flat.shape[1], change.shape[1]))
    weight = scipy.linalg.lstsq(
        np.vstack([centred, root]), np.vstack([change - change.mean(0), zeros])
    )[0]
    return weight, change.mean(0) - flat.mean(0) @ weight


def test_persistence_and_seasonal_against_a_loop(data):
    x, y = arrays(data.test)
    for period, found in ((1, baselines.persistence(data)), (4, baselines.seasonal(data, 4))):
        squares = [
            (x[n, WINDOW - period, c] - y[n, c]) ** 2 for n in range(len(x)) for c in range(2)
        ]
        assert found == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_a_season_of_the_series_is_forecast_without_error():
    rows = np.tile([[0.0], [1.0], [5.0]], (30, 1))
    data = windows("periodic", rows, window=WINDOW, train=60, valid=0, test=30)
    assert baselines.seasonal(data, 3) == 0 < baselines.persistence(data)


@pytest.mark.parametrize("period", [0, WINDOW + 1])
def test_seasonal_refuses_a_period_outside_the_window(data, period):
    with pytest.raises(ValueError, match=f"period={period}, window={WINDOW}"):
        baselines.seasonal(data, period)


@pytest.mark.parametrize("penalty", [0.0, 1e-4, 0.3])
def test_ridge_is_the_penalised_least_squares_solution(data, penalty):
    forecast = baselines.fit_ridge(data, [penalty])
    weight, bias = solve(data.train, penalty)
    np.testing.assert_allclose(forecast.weight.T, weight, atol=1e-8)
    np.testing.assert_allclose(forecast.bias, bias, atol=1e-8)
    x, y = arrays(data.test)
    expected = np.mean((x[:, -1] + x.reshape(len(x), -1) @ weight + bias - y) ** 2)
    assert baselines.ridge(data, [penalty]) == pytest.approx(expected, rel=1e-7)


def test_penalty_is_chosen_on_the_validation_part_or_on_the_last_tenth(data):
    penalties = [1e-5, 1e-2, 1.0, 100.0]
    if data.valid is None:
        count = 104  # of 115 training windows, of which the last tenth is held out
        fitted = (data.train[0][:count], data.train[1][:count])
        held_out = (data.train[0][count:], data.train[1][count:])
    else:
        fitted, held_out = data.train, data.valid
    x, y = arrays(held_out)
    errors = []
    for penalty in penalties:
        weight, bias = solve(fitted, penalty)
        errors.append(np.mean((x[:, -1] + x.reshape(len(x), -1) @ weight + bias - y) ** 2))
    assert baselines.fit_ridge(data, penalties).penalty == penalties[int(np.argmin(errors))]
    assert len(set(errors)) == len(errors)


def test_least_squares_with_a_dead_variable_is_the_one_of_least_norm():
    rows = np.random.default_rng(1).normal(size=(100, 2))
    rows[:, 1] = 3
    data = windows("dead", rows, window=2, train=80, valid=0, test=20)
    np.testing.assert_allclose(
        baselines.fit_ridge(data, [0.0]).weight.T, solve(data.train, 0.0)[0], atol=1e-8
    )


@pytest.mark.parametrize("penalties", [(), (0.1, -1.0)], ids=["none", "negative"])
def test_ridge_refuses_penalties(data, penalties):
    with pytest.raises(ValueError, match="penalties must be at least one and not negative"):
        baselines.fit_ridge(data, penalties)


def test_ridge_refuses_more_features_than_memory_holds():
    rows = torch.zeros(1, 1)
    part = rows.expand(4, 10, 10**6), rows.expand(4, 10**6)
    with pytest.raises(MemoryError, match="second moments of 10000000 features"):
        baselines.fit_ridge(Dataset("wide", train=part, test=part))


@pytest.mark.parametrize("variant", ["native-linear", "tied-linear", "scalar", "free"])
def test_network_without_nonlinearity_is_its_matrix(data, variant):
    network = models.build(SeriesNetwork(2, WINDOW, 3), variant, 0).double()
    found = baselines.as_affine(network, WINDOW, 2)
    assert found.weight.shape == (2, WINDOW * 2)
    x = data.test[0].double()
    by_autograd = torch.autograd.functional.jacobian(lambda one: network(one[None])[0], x[0])
    by_autograd[:, -1] -= torch.eye(2)
    torch.testing.assert_close(found.weight, by_autograd.flatten(1))
    torch.testing.assert_close(found(x), network(x).detach())


def test_network_with_a_nonlinearity_has_no_matrix():
    network = models.build(SeriesNetwork(2, WINDOW, 3), "tied", 0)
    with pytest.raises(ValueError, match="the network must be affine"):
        baselines.as_affine(network, WINDOW, 2)


def test_units_are_those_of_the_networks_metric(data):
    task, (x, y) = TASKS["forecast"], data.test
    network = task.report(task.score(x[:, -1], y).double().item() / len(x))
    assert baselines.persistence(data) == pytest.approx(network, rel=1e-5)


def test_windows_are_not_written_out():
    rows = np.random.default_rng(2).normal(size=(20_000, 1))
    data = windows("long", rows, window=1000, train=15_000, valid=0, test=5_000)
    whole = 14_000 * 1000 * 8  # bytes of the training windows in float64
    sizes = [x.numel() * 8 for x, _ in baselines._blocks(data.train)]
    assert max(sizes) <= baselines._BLOCK * 8 < whole
    assert sum(sizes) == whole
    assert data.train[0].untyped_storage().nbytes() < whole / 100


def test_all_errors_leaves_out_seasons_beyond_the_window():
    assert list(baselines.all_errors(load("etth1-standin"))) == [
        *("persistence", "24 steps ago", "ridge")
    ]
    found = baselines.all_errors(load("electricity-sample"))
    assert list(found) == ["persistence", "24 steps ago", "168 steps ago", "ridge"]
    assert found["ridge"] < found["24 steps ago"] < found["persistence"]


def test_command_writes_a_record_of_the_errors(tmp_path, capsys):
    assert main(["baselines", "electricity", "--runs", str(tmp_path)]) == 0
    path = tmp_path / "baselines" / "electricity-quick.json"
    assert str(path) in capsys.readouterr().out
    record = records.read_baselines(tmp_path, "electricity", "quick")
    data = load("electricity-sample")
    assert record == json.loads(path.read_text())
    assert record["errors"] == pytest.approx(baselines.all_errors(data))
    assert record["data"]["fingerprint"] == data.fingerprint
    assert record["data"]["subset"] == data.subset
    assert record["metric"] == TASKS["forecast"].metric


def test_command_refuses_images(capsys):
    assert main(["baselines", "mnist"]) == 2
    assert "baselines need a series or texts, got 'mnist'" in capsys.readouterr().err
