"""Diagonal state space models (S4D): a causal Toeplitz matrix with few parameters."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..arguments import as_size
from ..pattern import Pattern
from .base import StructuredMatrix
from .tied import convolve, transform_macs


def hippo_legs(states: int) -> tuple[np.ndarray, np.ndarray]:
    r"""HiPPO-LegS: $A_{nk}=-\sqrt{(2n+1)(2k+1)}$ below the diagonal, $-(n+1)$ on it; and B.

    Args:
        states: N.

    Returns:
        A of shape ``(N, N)`` and B of shape ``(N,)``, $B_n=\sqrt{2n+1}$.

    Raises:
        ValueError: N is no positive integer.
    """
    n = np.arange(as_size("states", states))
    b = np.sqrt(2 * n + 1)
    return -np.tril(np.outer(b, b), -1) - np.diag(n + 1.0), b


def diagonal_init(kind: str, states: int) -> Tensor:
    r"""Poles with positive imaginary part, N/2 complex numbers.

    Args:
        kind: ``"legs"``: the eigenvalues of $A+PP^T$ of HiPPO-LegS; ``"lin"``: $-1/2+i\pi n$;
            ``"inv"``: $-1/2+i\frac N\pi(\frac N{2n+1}-1)$; ``"real"``: $-(n+1)$.
        states: N, even.

    Raises:
        ValueError: There is no such kind, or N is odd.
    """
    states = as_size("states", states, None)
    if states % 2 or states < 2:
        raise ValueError(f"states must be even and at least 2, got {states}")
    n = np.arange(states // 2)
    if kind == "legs":
        a, b = hippo_legs(states)
        normal = a + np.outer(b, b) / 2
        # skew-symmetric apart from -1/2 on the diagonal: i times it is Hermitian
        poles = np.linalg.eigvalsh(1j * (normal + np.eye(states) / 2))
        return torch.from_numpy(-0.5 + 1j * np.sort(poles[poles > 0]))
    kinds = {
        "lin": -0.5 + 1j * math.pi * n,
        "inv": -0.5 + 1j * states / math.pi * (states / (2 * n + 1) - 1),
        "real": -(n + 1.0) + 0j,
    }
    if kind not in kinds:
        raise ValueError(f"kind must be one of {['legs', *kinds]}, got {kind!r}")
    return torch.from_numpy(kinds[kind])


class DiagonalStateSpace(StructuredMatrix):
    r"""The L x L matrix of $h_t=\bar Ah_{t-1}+\bar Bu_t,\ y_t=2\,\mathrm{Re}\,C^Th_t+Du_t$.

    $\bar A=e^{\Delta A}$ and $\bar B=(\bar A-1)/A$ are diagonal (zero-order hold), so that
    $W_{ij}=K_{i-j}$ with $K_l=2\,\mathrm{Re}\sum_nC_n\bar B_n\bar A_n^l$, and D on the diagonal.
    The kernel with one transform, the recurrence, and the Toeplitz matrix are the same map.

    Args:
        shape: ``(L, L)``.
        states: N, even: N/2 complex pairs.
        kind: How the poles start, see :func:`diagonal_init`.
        step: How Δ starts, above 0.

    Raises:
        ValueError: The shape is not square, N is odd, there is no such kind, or the step is not
            above 0 or not finite.

    Source: arXiv 2206.11893.
    """

    def __init__(
        self, shape: tuple[int, int], states: int, kind: str = "lin", step: float = 0.01
    ) -> None:
        super().__init__(shape, states=states, kind=kind, step=step)
        if shape[0] != shape[1]:
            raise ValueError(f"shape must be square, got {shape}")
        if not 0 < step < math.inf:
            raise ValueError(f"step must be above 0 and finite, got {step}")
        poles = diagonal_init(kind, states)
        real = torch.get_default_dtype()
        self.log_decay = nn.Parameter((-poles.real).log().to(real))
        self.frequency = nn.Parameter(poles.imag.to(real))
        self.readout = nn.Parameter(torch.empty(states // 2, 2))
        self.log_step = nn.Parameter(torch.empty(()))
        self.skip = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """C complex normal, D one, Δ and the poles as given."""
        nn.init.normal_(self.readout, std=0.5**0.5)
        nn.init.ones_(self.skip)
        nn.init.constant_(self.log_step, math.log(self.structure["step"]))
        poles = diagonal_init(self.structure["kind"], self.structure["states"])
        with torch.no_grad():
            self.log_decay.copy_((-poles.real).log())
            self.frequency.copy_(poles.imag)

    def _poles(self) -> tuple[Tensor, Tensor]:
        """A and Δ A, in single precision at least: torch has no complex numbers of bfloat16."""
        wide = torch.promote_types(self.dtype, torch.float32)
        poles = torch.complex(-self.log_decay.to(wide).exp(), self.frequency.to(wide))
        return poles, poles * self.log_step.to(wide).exp()

    def discrete(self) -> tuple[Tensor, Tensor]:
        r"""$\bar A$ and $C\bar B$, complex of shape ``(N/2,)``."""
        poles, power = self._poles()
        readout = torch.view_as_complex(self.readout.to(power.real.dtype))
        return power.exp(), readout * torch.expm1(power) / poles

    def kernel(self) -> Tensor:
        """K, the first column of the matrix without D: shape ``(L,)``.

        Lag ``i s + j`` is power i of the s-th power, times power j: few exponentials, one product.
        """
        _, poles = self._poles()
        side = math.isqrt(self.shape[0] - 1) + 1
        powers = torch.arange(side, dtype=poles.real.dtype, device=self.device)
        near, far = ((poles[:, None] * powers * step).exp() for step in (1, side))
        lags = 2 * ((self.discrete()[1][:, None] * far).mT @ near).real
        return lags.flatten()[: self.shape[0]].to(self.dtype)

    def product(self, x: Tensor) -> Tensor:
        """The causal convolution with the kernel, by padded transforms."""
        return convolve(self.kernel(), x)[:, : self.shape[0]] + self.skip * x

    def scan(self, x: Tensor) -> Tensor:
        """The same product step by step, as a recurrence of N/2 complex states.

        Args:
            x: Shape ``(n, L)``.
        """
        a, cb = self.discrete()
        state, outputs = torch.zeros(len(x), len(a), dtype=a.dtype, device=x.device), []
        for t in range(self.shape[0]):
            state = a * state + x[:, t, None]
            outputs.append(2 * (state @ cb).real)
        y = torch.stack(outputs, 1) + self.skip * x
        return y.to(torch.promote_types(self.dtype, x.dtype))

    def patterns(self) -> tuple[Pattern, ...]:
        """Lower triangular and tied along the diagonals: L numbers that the kernel gives."""
        length = self.shape[0]
        i, j = np.tril_indices(length)
        return (Pattern(self.shape, i, j, i - j, length),)

    def thetas(self) -> tuple[Tensor, ...]:
        """The kernel, D added at lag 0."""
        first = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        first[0] = 1
        return (self.kernel() + first * self.skip,)

    @property
    def einsum(self) -> str:
        """The kernel with D, the places of each lag, x."""
        return "k,kij,Bj->Bi"

    def operands(self) -> tuple[Tensor, ...]:
        """The kernel with D, and for each lag the matrix of its places."""
        lag = torch.arange(self.shape[0])
        places = (lag[:, None] - lag == lag[:, None, None]).to(self.thetas()[0])
        return self.thetas()[0], places

    @property
    def dof(self) -> int:
        """At most 2 N + 1 (poles, read-outs, D; Δ only scales the poles), and at most L."""
        return min(self.shape[0], 2 * self.structure["states"] + 1)

    @property
    def macs(self) -> int:
        """Real multiplications of two transforms and the product between, to leading order."""
        return transform_macs(2 * self.shape[0] - 1)
