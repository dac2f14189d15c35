"""A rule holds for what computes what its kind computes, and refuses everything else."""

import sys
from functools import partial

import pytest
import torch
from test_convert import AFFINE
from torch import nn

import sparsemat as sm
from sparsemat.rules import find, rules

MORE = {
    "ConstantPad2d": (lambda: nn.ConstantPad2d(1, 2.0), (1, 3, 3)),
    "ReflectionPad1d": (lambda: nn.ReflectionPad1d(1), (1, 3)),
    "ReplicationPad3d": (lambda: nn.ReplicationPad3d(1), (1, 2, 2, 2)),
    "CircularPad2d": (lambda: nn.CircularPad2d(1), (1, 3, 3)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), (1, 3, 3)),
    "UpsamplingBilinear2d": (lambda: nn.UpsamplingBilinear2d(5), (1, 3, 3)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (4, 2, 2)),
    "PixelUnshuffle": (lambda: nn.PixelUnshuffle(2), (1, 4, 4)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(2), (4, 2, 2)),
    "Unflatten": (lambda: nn.Unflatten(1, (2, 2)), (4,)),
    "Unfold": (lambda: nn.Unfold(2), (1, 3, 3)),
    "Fold": (lambda: nn.Fold((3, 3), 2), (4, 4)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2, track_running_stats=True).eval(), (2, 3)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, track_running_stats=True).eval(), (2, 3, 3)),
}
CASES = AFFINE | MORE


def calls(module, x):
    """Names of the methods that torch calls on the module itself in one forward pass."""
    names = set()

    def note(frame, event, _):
        local = frame.f_locals
        if event == "call" and frame.f_code.co_argcount and local.get("self") is module:
            names.add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        module(x)
    finally:
        sys.setprofile(None)
    # how every module is called, and torch's own look-up of parameters
    return names - {"_wrapped_call_impl", "_call_impl", "__getattr__", "__setattr__", "<genexpr>"}


def defined(module, name):
    """A method of the module's class, not one that every module has."""
    return name == "forward" or (hasattr(type(module), name) and not hasattr(nn.Module, name))


@pytest.mark.parametrize("build, shape", CASES.values(), ids=CASES)
def test_every_method_that_forward_calls_may_not_be_replaced(build, shape):
    module = build()
    names = {n for n in calls(module, torch.zeros(1, *shape)) if defined(module, n)}
    assert "forward" in names
    for name in names:
        patched, overridden, kind = build(), build(), type(module)
        overridden.__class__ = type("Mine", (kind,), {name: lambda self, *args: None})
        others = [overridden]
        if not isinstance(getattr(kind, name), property):
            patched.__dict__[name] = partial(getattr(patched, name))
            others.append(patched)
        for other in others:
            with pytest.raises(TypeError, match=f"its {name} was replaced"):
                sm.to_matrix(other, shape)


KINDS = [kind for rule in rules() for kind in rule.kinds]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_kind_refuses_a_forward_of_ones_own(kind):
    module = object.__new__(type("Mine", (kind,), {"forward": lambda self, x: x}))
    nn.Module.__init__(module)
    with pytest.raises(TypeError, match=f"something else than {kind.__name__}: its forward"):
        find(module)


HARMLESS = {
    "extra_repr": lambda self: "mine",
    "reset_parameters": lambda self: None,
    "_load_from_state_dict": lambda self, *args: None,
    "helper_of_the_user": lambda self: None,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_change_the_result_may_be_replaced(name):
    module = nn.Conv2d(1, 2, 3)
    module.__class__ = type("Mine", (nn.Conv2d,), {name: HARMLESS[name]})
    x = torch.randn(1, 1, 4, 4)
    W, b = sm.to_matrix(module, (1, 4, 4))
    torch.testing.assert_close(W @ x.reshape(-1) + b, module(x).reshape(-1))


def test_instance_normalisation_asks_its_flag_at_each_call():
    module = nn.InstanceNorm2d(2, track_running_stats=True).eval()
    sm.to_matrix(module, (2, 3, 3))
    module.track_running_stats = False
    with pytest.raises(ValueError, match="got training=False and track_running_stats=False"):
        sm.to_matrix(module, (2, 3, 3))


def test_batch_normalisation_uses_its_statistics_in_eval_mode_whatever_the_flag():
    module = nn.BatchNorm2d(2).eval()
    module.running_mean.normal_()
    module.track_running_stats = False
    x = torch.randn(1, 2, 3, 3)
    W, b = sm.to_matrix(module, (2, 3, 3))
    torch.testing.assert_close(W @ x.reshape(-1) + b, module(x).reshape(-1))


@pytest.mark.parametrize("name", ["forward", "_conv_forward", "__call__"])
def test_a_class_that_was_patched_since_is_refused(name, monkeypatch):
    module = nn.Conv2d(1, 2, 3)
    monkeypatch.setattr(nn.Conv2d, name, lambda self, x, *args: x)
    for refused in (sm.to_matrix, sm.from_module):
        with pytest.raises(TypeError, match=f"Conv2d: its {name} was replaced"):
            refused(module, (1, 4, 4))
    monkeypatch.undo()
    assert find(module) is not None


REGISTER = [
    nn.modules.module.register_module_forward_hook,
    nn.modules.module.register_module_forward_pre_hook,
    nn.modules.module.register_module_full_backward_hook,
]


@pytest.mark.parametrize("register", REGISTER, ids=lambda register: register.__name__)
def test_hooks_of_all_modules_are_refused(register):
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3))
    handle = register(lambda *_: None)
    try:
        with pytest.raises(TypeError, match=r"^1: Conv2d .* there are hooks of all modules"):
            sm.from_module(network, (1, 4, 4))
    finally:
        handle.remove()
    assert isinstance(sm.from_module(network, (1, 4, 4))[1], sm.Conv2d)


class Doubled(nn.Conv2d):
    """A convolution whose weight is twice its parameter."""

    @property
    def weight(self):
        if "weight" not in self._parameters:
            raise AttributeError("weight")
        return 2 * self._parameters["weight"]

    @weight.setter
    def weight(self, value):
        self._parameters["weight"] = value


def test_a_weight_that_the_class_computes_is_read_or_refused():
    module, x = Doubled(1, 2, 2), torch.randn(3, 1, 4, 4)
    a, b = sm.to_matrix(module, (1, 4, 4))
    torch.testing.assert_close((a @ x.flatten(1).T).T + b, module(x).flatten(1))
    with pytest.raises(ValueError, match="weight of Doubled must be its parameter"):
        sm.from_module(module, (1, 4, 4))
