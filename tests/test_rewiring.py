"""What an optimizer holds of a parameter whose entries move."""

import pytest
import torch

from sparsemat.rewiring import state_by_entry

HELD = {
    "Adam": (torch.optim.Adam, {"exp_avg", "exp_avg_sq"}),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, 0.9), {"momentum_buffer"}),
    "Rprop": (torch.optim.Rprop, {"prev", "step_size"}),
    "Adafactor": (torch.optim.Adafactor, {"row_var", "col_var"}),
    "none yet": (torch.optim.SGD, set()),
}


def stepped(make, shape):
    parameter = torch.nn.Parameter(torch.ones(shape))
    optimizer = make([parameter])
    parameter.square().sum().backward()
    optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("entries", [1, 5])
@pytest.mark.parametrize(("make", "names"), HELD.values(), ids=HELD)
def test_what_is_held_for_every_entry_is_found(make, names, entries):
    parameter, optimizer = stepped(make, (entries, 2, 3))
    held = state_by_entry(optimizer, parameter)
    assert held.keys() == names
    assert all(len(state) == entries for state in held.values())


def test_without_an_optimizer_nothing_is_held():
    assert state_by_entry(None, torch.nn.Parameter(torch.ones(3))) == {}


def test_state_along_another_axis_is_refused():
    parameter, optimizer = stepped(torch.optim.Adam, (5, 2))
    optimizer.state[parameter]["by_column"] = torch.ones(2, 5)
    with pytest.raises(ValueError, match=r"of shape \(5, 2\), got by_column of shape \(2, 5\)"):
        state_by_entry(optimizer, parameter)


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got str"):
        state_by_entry("adam", torch.nn.Parameter(torch.ones(3)))
