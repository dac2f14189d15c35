"""Stand-in until the core's chain is there."""

from functools import reduce


class Chain:
    def __init__(self, *factors):
        self.factors = factors

    @property
    def shape(self):
        return self.factors[0].shape[0], self.factors[-1].shape[1]

    @property
    def T(self):
        return Chain(*(f.T for f in reversed(self.factors)))

    def to_dense(self):
        return reduce(lambda a, b: a @ b, [f.to_dense() for f in self.factors])

    def __matmul__(self, x):
        for f in reversed(self.factors):
            x = f @ x
        return x
