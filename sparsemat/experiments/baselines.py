"""Forecasts without a network: the last row, the row a period ago, and ridge regression.

Errors are those of the networks' metric: the mean squared error of the test part, averaged over the
variables, in units of their training variance. Windows are read a block at a time, because as
strided views they share their rows and would grow by the length of the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..algebra import require_memory
from .datasets import Dataset
from .training import HELD_OUT

PENALTIES = (0.0, *(10.0**k for k in range(-6, 2)))
_BLOCK = 1 << 22  # entries of the windows that are copied at a time

Part = tuple[Tensor, Tensor]  # windows (N, T, variables) and the rows (N, variables) that follow


def persistence(data: Dataset) -> float:
    """Test error of forecasting the last row of the window again.

    Args:
        data: A series.
    """
    return error(lambda x: x[:, -1], data.test)


def seasonal(data: Dataset, period: int) -> float:
    """Test error of forecasting the row that came ``period`` steps before the target.

    Args:
        data: A series.
        period: Steps back, at most the length of the window.

    Raises:
        ValueError: The window does not reach back so far.
    """
    window = data.test[0].shape[1]
    if not 1 <= period <= window:
        raise ValueError(f"period must lie in 1..window, got period={period}, window={window}")
    return error(lambda x: x[:, -period], data.test)


def ridge(data: Dataset, penalties: Sequence[float] = PENALTIES) -> float:
    """Test error of :func:`fit_ridge`."""
    return error(fit_ridge(data, penalties), data.test)


def all_errors(data: Dataset, periods: Sequence[int] = (24, 168)) -> dict[str, float]:
    """The test errors of all forecasts, by name.

    Args:
        data: A series.
        periods: Seasons to try; those that the window does not reach are left out.
    """
    reached = [period for period in periods if period <= data.test[0].shape[1]]
    return {
        "persistence": persistence(data),
        **{f"{period} steps ago": seasonal(data, period) for period in reached},
        "ridge": ridge(data),
    }


@dataclass(frozen=True, eq=False)
class AffineForecast:
    """The last row plus one matrix times the whole window, plus a constant.

    Args:
        weight: The matrix, ``(variables, T * variables)``; column ``t * variables + c`` acts on
            variable c of step t.
        bias: The constant, ``(variables,)``.
        penalty: The penalty it was fitted with, if it was.
    """

    weight: Tensor
    bias: Tensor
    penalty: float | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Windows ``(N, T, variables)`` to forecasts ``(N, variables)``."""
        x = x.to(self.weight.dtype)
        return x[:, -1] + x.flatten(1) @ self.weight.mT + self.bias


def as_affine(network: nn.Module, window: int, variables: int) -> AffineForecast:
    """The matrix that a network without nonlinearities is, found by forecasting unit windows.

    Args:
        network: Maps windows ``(N, window, variables)`` to forecasts ``(N, variables)``.
        window: Steps of a window.
        variables: Variables of the series.

    Raises:
        ValueError: The network is not affine: it forecasts other windows differently.
    """
    network = deepcopy(network).cpu().double().eval()
    size = window * variables
    units = torch.eye(size, dtype=torch.float64).view(size, window, variables)
    others = torch.randn(4, window, variables, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        bias = network(torch.zeros_like(units[:1]))[0]
        found = AffineForecast((network(units) - units[:, -1] - bias).mT, bias)
        gap = (network(others) - found(others)).abs().max().item()
    if not gap <= 1e-8 * (1 + found(others).abs().max().item()):
        raise ValueError(
            f"the network must be affine, but misses its own matrix by {gap:.2g} on other windows"
        )
    return found


def fit_ridge(data: Dataset, penalties: Sequence[float] = PENALTIES) -> AffineForecast:
    r"""Ridge regression of the change, from the last row to the next, on the flattened window.

    It minimises the mean over training windows of $\lVert y - x_{T-1} - Wx - b\rVert^2$ plus
    ``penalty`` times $\lVert W\rVert_F^2$, in float64. The constant carries no penalty. A penalty
    of 0 is least squares (of least norm, where the solution is not unique).

    Args:
        data: A series.
        penalties: Those to choose from: by the validation part, or where there is none, by the last
            tenth of the training windows, after which all of them are fitted.

    Returns:
        The forecast with the penalty that did best.

    Raises:
        MemoryError: The matrix of second moments, ``(T * variables)`` squared, would not fit.
        ValueError: There is no penalty, or a negative one.
    """
    if not penalties or min(penalties) < 0:
        raise ValueError(f"penalties must be at least one and not negative, got {penalties}")
    if len(penalties) == 1:
        return _fit(data.train, penalties)[0]
    if data.valid is not None:
        return min(_fit(data.train, penalties), key=lambda forecast: error(forecast, data.valid))
    count = len(data.train[0]) - round(HELD_OUT * len(data.train[0]))
    early, late = (
        tuple(t[part] for t in data.train) for part in (slice(count), slice(count, None))
    )
    best = min(_fit(early, penalties), key=lambda forecast: error(forecast, late))
    return _fit(data.train, [best.penalty])[0]


def error(forecast: Callable[[Tensor], Tensor], part: Part) -> float:
    """Mean squared error over examples and variables, in float64.

    Args:
        forecast: Windows ``(N, T, variables)`` to forecasts ``(N, variables)``.
        part: Windows and targets, such as ``data.test``.
    """
    total = sum((forecast(x) - y).square().sum().item() for x, y in _blocks(part))
    return total / part[1].numel()


def _fit(part: Part, penalties: Sequence[float]) -> list[AffineForecast]:
    """One forecast a penalty, from one eigendecomposition of the windows' covariance."""
    _, steps, variables = part[0].shape
    features = steps * variables
    require_memory(
        f"the second moments of {features} features",
        2 * (features + 1) ** 2,
        torch.float64,
        torch.device("cpu"),
    )
    moments = torch.zeros(features + 1, features + 1 + variables, dtype=torch.float64)
    for x, y in _blocks(part):
        inputs = torch.cat([x.flatten(1), torch.ones(len(x), 1, dtype=x.dtype)], 1)
        moments += inputs.mT @ torch.cat([inputs, y - x[:, -1]], 1)
    moments /= len(part[0])
    mean, mean_change = moments[-1, :features], moments[-1, features + 1 :]
    covariance = moments[:-1, :features] - torch.outer(mean, mean)
    cross = moments[:-1, features + 1 :] - torch.outer(mean, mean_change)
    values, vectors = torch.linalg.eigh(covariance)
    rounding = features * torch.finfo(values.dtype).eps * values[-1]
    values = torch.where(values > rounding, values, torch.inf)  # directions the data do not show
    forecasts = []
    for penalty in penalties:
        weight = (vectors @ ((vectors.mT @ cross) / (values + penalty)[:, None])).mT
        forecasts.append(AffineForecast(weight, mean_change - weight @ mean, penalty))
    return forecasts


def _blocks(part: Part) -> Iterator[Part]:
    size = max(1, _BLOCK // part[0][0].numel())
    for x, y in zip(*(tensor.split(size) for tensor in part), strict=True):
        yield x.double(), y.double()
