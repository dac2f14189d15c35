"""What the tests of whole networks share."""

import torch
from torch import nn


class Branching(nn.Module):
    """The parts of a small network whose subclasses say how they are joined."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(32, 5)


def with_statistics(model):
    """The network, with means and variances in its batch normalisations as if it were trained."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 2)
    return model


def made(make, shape):
    """A network in eval mode and an input, in float64, the same at every call."""
    torch.manual_seed(0)
    module = with_statistics(make().double().eval())
    return module, torch.randn(shape, dtype=torch.float64)
