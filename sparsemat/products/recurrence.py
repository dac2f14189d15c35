"""The product of a recurrence: the block-bidiagonal system of all its steps, solved step by step.

With N one block below the diagonal, the states of ``h_t = f(W h_{t-1} + u_t)`` solve
``h = f(N h + u)`` by substitution, and the backward pass is one substitution with the transposed
system, ``l_t = f'(h_t) (g_t + W^T l_{t+1})``. Then ``l`` is the gradient of u, and that of W is one
matrix product over all steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import isqrt

import torch

from .casting import as_given, autocast
from .product import is_traced, is_transformed, is_twice_forward

SMALL_STEP = 512  # entries of a state below which a step is mostly overhead
CHUNKED_STEPS = 32  # fewer are not worth two passes
ACTIVATIONS = ("tanh", "relu", "linear")
FORMS = ("steps", "chunks")


def recurrence(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    initial: torch.Tensor | None = None,
    activation: str = "linear",
    form: str | None = None,
) -> torch.Tensor:
    r"""All states of $h_t = f(W h_{t-1} + u_t)$, with a hand-written backward pass.

    Args:
        inputs: u, time-major, shape ``(T, n, h)``; entry ``[t, s]`` is what sequence s receives at
            step t.
        weight: W, shape ``(h, h)``, or ``(h,)`` for the diagonal of a diagonal W.
        initial: The states before the first step, shape ``(n, h)``; zeros if None.
        activation: f, one of ``"tanh"``, ``"relu"`` and ``"linear"``.
        form: A form of :class:`RecurrenceProduct`; the one that suits the sizes if None.

    Returns:
        The states, shape ``(T, n, h)``. Under autocast they have its type, unless they are float64.

    Raises:
        ValueError: The activation is unknown or has no such form, there is no step, or the shapes
            disagree.

    Source: chapters "Recurrence" and "Backward passes".
    """
    if inputs.ndim != 3 or len(inputs) == 0:
        raise ValueError(f"inputs must have shape (T, n, h) with T >= 1, got {tuple(inputs.shape)}")
    steps, n, h = inputs.shape
    # a choice by size would tie what is traced to the size of this batch
    traced = is_traced(inputs, weight)
    product = choose(steps, 1 if traced else n, h, activation, inputs.device, form)
    if weight.shape not in ((h, h), (h,)):
        raise ValueError(
            f"weight must have shape (h, h) or (h,) with h={h}, got {tuple(weight.shape)}"
        )
    if initial is None:
        initial = inputs.new_zeros(n, h)
    elif initial.shape != (n, h):
        raise ValueError(f"initial must have shape (n, h)={(n, h)}, got {tuple(initial.shape)}")
    inputs, weight, initial = autocast(inputs, weight, initial)
    return product(inputs, weight, initial)


@dataclass(frozen=True)
class RecurrenceProduct:
    """The states of a recurrence in one of its forms. Made by ``choose``.

    Attributes:
        form: ``"steps"``: one product a step. ``"chunks"``: all chunks of about sqrt(T) steps
            advance together from zero, then the states at their borders are carried through: twice
            the work in far fewer calls. Where a power of the weight overflows, by steps after all.
        why: What decided for the form.
        steps: Length T of the sequences it serves.
        activation: The activation.
    """

    form: str
    why: str
    steps: int
    activation: str

    def __repr__(self) -> str:
        return f"RecurrenceProduct(T={self.steps}, {self.activation}): {self.form}, {self.why}"

    def __call__(
        self, inputs: torch.Tensor, weight: torch.Tensor, initial: torch.Tensor
    ) -> torch.Tensor:
        """Arguments of :func:`recurrence`, of one dtype, to the states ``(T, n, h)``."""
        if is_traced(inputs, weight, initial) or is_twice_forward():
            return plain_recurrence(inputs, weight, initial, self.activation)
        return _Recurrence.apply(inputs, weight, initial, self)


def choose(
    steps: int,
    n: int,
    h: int,
    activation: str,
    device: torch.device | str = "cpu",
    form: str | None = None,
) -> RecurrenceProduct:
    """The product that serves a case, from its sizes alone.

    Args:
        steps: Length T of the sequence.
        n: Number of sequences.
        h: Units of the state.
        activation: The activation.
        device: Where the tensors live.
        form: The form to use instead of the one that suits the sizes.

    Returns:
        A callable ``product(inputs, weight, initial) -> states``; its ``repr`` says which form it
        is and why.

    Raises:
        ValueError: The activation is unknown, or there is no such form of it.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {ACTIVATIONS}, got {activation!r}")
    if form is not None:
        check_form(form, activation)
        return RecurrenceProduct(form, "as asked", steps, activation)
    form = "steps"
    if activation != "linear":
        why = f"{activation} acts between the steps"
    elif steps < CHUNKED_STEPS:
        why = f"T={steps} < {CHUNKED_STEPS}"
    elif torch.device(device).type != "cpu":
        form, why = "chunks", f"T={steps} >= {CHUNKED_STEPS} calls would be small for a GPU"
    elif n * h <= SMALL_STEP:
        form, why = "chunks", f"a step of n*h={n * h} <= {SMALL_STEP} entries is mostly overhead"
    else:
        why = f"a step of n*h={n * h} > {SMALL_STEP} entries outweighs its call"
    return RecurrenceProduct(form, why, steps, activation)


def check_form(form: str, activation: str) -> None:
    """Refuse a form that an activation does not have, whatever the sizes.

    Raises:
        ValueError: With the rule and the form.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS} or None, got {form!r}")
    if form == "chunks" and activation != "linear":
        raise ValueError(f"form 'chunks' needs the activation 'linear', got {activation!r}")


class _Recurrence(torch.autograd.Function):
    @staticmethod
    @as_given
    def forward(inputs, weight, initial, product):
        forward = weight if weight.ndim == 1 else weight.mT
        if product.form == "chunks":
            return _by_chunks(inputs, forward, initial)
        return _by_steps(inputs, forward, initial, product.activation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, weight, initial, ctx.product = inputs
        ctx.save_for_backward(weight, initial, output)
        ctx.save_for_forward(weight, initial, output)

    @staticmethod
    @as_given
    def backward(ctx, grad):
        weight, initial, states = ctx.saved_tensors
        plain = torch.is_grad_enabled() or is_transformed() or is_traced(grad, states)
        solve = _adjoint_plain if plain else _adjoint
        solution = solve(weight, initial, states, grad, ctx.product)
        grad_weight = grad_initial = None
        if ctx.needs_input_grad[1]:
            grad_weight = _outer(solution[0], initial, weight)
            if len(states) > 1:
                h = states.shape[-1]
                sides = (side.reshape(-1, h) for side in (solution[1:], states[:-1]))
                later = _outer(*sides, weight)
                grad_weight = grad_weight + later
        if ctx.needs_input_grad[2]:
            grad_initial = _times(solution[0], _conj(weight))
        return solution, grad_weight, grad_initial, None

    @staticmethod
    def jvp(ctx, d_inputs, d_weight, d_initial, _):
        weight, initial, states = ctx.saved_tensors
        change, before, result = d_initial, initial, []
        for t, state in enumerate(states.unbind()):
            terms = [] if d_inputs is None else [d_inputs[t]]
            if d_weight is not None:
                terms.append(_times(before, _forward(d_weight)))
            if change is not None:
                terms.append(_times(change, _forward(weight)))
            change = sum(terms[1:], terms[0]) if terms else torch.zeros_like(state)
            change = change * _slope(state, ctx.product.activation)
            before = state
            result.append(change)
        return torch.stack(result)

    @staticmethod
    def vmap(info, in_dims, inputs, weight, initial, product):
        def one(*tensors):
            return plain_recurrence(*tensors, product.activation)

        return torch.vmap(one, in_dims[:3])(inputs, weight, initial), 0


def plain_recurrence(
    inputs: torch.Tensor, weight: torch.Tensor, initial: torch.Tensor, activation: str
) -> torch.Tensor:
    """The states by plain operations, for whatever traces or batches them."""
    f = {"tanh": torch.tanh, "relu": torch.relu, "linear": lambda a: a}[activation]
    state, states = initial, []
    for u in inputs.unbind():
        state = f(u + _times(state, _forward(weight)))
        states.append(state)
    return torch.stack(states)


def _adjoint(weight, initial, states, grad, product: RecurrenceProduct) -> torch.Tensor:
    """What solves the transposed system, ``l_t = f'(h_t) (g_t + W^H l_{t+1})``."""
    weight = _conj(weight).resolve_conj()
    if product.form == "chunks":
        return _by_chunks(grad.flip(0), weight, torch.zeros_like(initial)).flip(0)
    if product.activation == "tanh" and states.is_complex():
        return _adjoint_plain(weight.conj(), initial, states, grad, product)
    solution = torch.empty_like(states)
    later = None
    steps = zip(grad.unbind(), states.unbind(), solution.unbind(), strict=True)
    for g, state, out in reversed(list(steps)):
        if later is None:
            out.copy_(g)
        else:
            _step(g, later, weight, out)
        if product.activation == "tanh":
            torch.ops.aten.tanh_backward.grad_input(out, state, grad_input=out)
        elif product.activation == "relu":
            torch.ops.aten.threshold_backward.grad_input(out, state, 0, grad_input=out)
        later = out
    return solution


def _adjoint_plain(weight, initial, states, grad, product: RecurrenceProduct) -> torch.Tensor:
    later, solution = None, []
    for g, state in reversed(list(zip(grad.unbind(), states.unbind(), strict=True))):
        g = g if later is None else g + _times(later, _conj(weight))
        later = g * _conj(_slope(state, product.activation))
        solution.append(later)
    return torch.stack(solution[::-1])


def _slope(state: torch.Tensor, activation: str) -> torch.Tensor | int:
    """F' at the argument where f has this value."""
    if activation == "linear":
        return 1
    return 1 - state * state if activation == "tanh" else (state > 0).to(state.dtype)


def _forward(weight: torch.Tensor) -> torch.Tensor:
    return weight if weight.ndim == 1 else weight.mT


def _conj(tensor: torch.Tensor | int) -> torch.Tensor | int:
    return tensor.conj() if torch.is_tensor(tensor) and tensor.is_complex() else tensor


def _by_steps(
    inputs: torch.Tensor, weight: torch.Tensor, initial: torch.Tensor, activation: str
) -> torch.Tensor:
    """The states of ``h_t = f(h_{t-1} @ weight + u_t)``, one after the other."""
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    state = initial
    for u, out in zip(inputs.unbind(), states.unbind(), strict=True):
        state = _step(u, state, weight, out)
        if activation == "tanh":
            state.tanh_()
        elif activation == "relu":
            state.relu_()
    return states


def _by_chunks(inputs: torch.Tensor, weight: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
    """The states of the linear recurrence ``h_t = h_{t-1} @ weight + u_t``, chunk by chunk."""
    steps, n, h = inputs.shape
    length = min(steps, max(2, isqrt(steps) // 2))
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    powers = [wide]
    for _ in range(length - 1):
        powers.append(_times(powers[-1], wide))
    powers = torch.stack(powers).to(weight.dtype)
    # an infinite power times a state of zeros would be NaN
    if not (powers.is_meta or powers.isfinite().all()):
        return _by_steps(inputs, weight, initial, "linear")
    chunks = steps // length
    whole = chunks * length
    # one step of every chunk lies together
    local = inputs[:whole].view(chunks, length, n, h).transpose(0, 1)
    local = local.clone(memory_format=torch.contiguous_format).view(length, chunks * n, h)
    for before, after in pairwise(local.unbind()):
        _step(after, before, weight, after)
    ends, state, carried = local[-1].view(chunks, n, h), initial, []
    for end in ends.unbind():
        carried.append(state)
        state = end + _times(state, powers[-1])
    carried = torch.cat(carried)
    if weight.ndim == 1:
        local.addcmul_(carried, powers[:, None])
    else:
        local.baddbmm_(carried.expand(length, -1, -1), powers)
    states = torch.empty_like(inputs, memory_format=torch.contiguous_format)
    states[:whole].view(chunks, length, n, h).copy_(
        local.view(length, chunks, n, h).transpose(0, 1)
    )
    for t in range(whole, steps):
        state = _step(inputs[t], state, weight, states[t])
    return states


def _step(u: torch.Tensor, state: torch.Tensor, weight: torch.Tensor, out: torch.Tensor):
    """``u + state @ weight`` into ``out``; a weight of one dimension is a diagonal."""
    if weight.ndim == 1:
        return torch.addcmul(u, state, weight, out=out)
    return torch.addmm(u, state, weight, out=out)


def _times(state: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return state * weight if weight.ndim == 1 else state @ weight


def _outer(left: torch.Tensor, right: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``left.T @ right``, or its diagonal for a diagonal weight."""
    right = _conj(right)
    return (left * right).sum(0) if like.ndim == 1 else left.mT @ right
