"""The mutations of tools/mutations.py: what is changed, and which check must notice.

A builder is changed by code appended to its module, so that a mutation does not depend on how the
builder is written. A claim is changed by replacing text of the cell that checks it; these are
listed in mutants.yml, those of the code of structured matrices in mutants_structured.yml.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from mutant_kinds import Mutation, builder, claim, method

LIST = Path(__file__).resolve().parent / "mutants.yml"
STRUCTURED_LIST = LIST.with_name("mutants_structured.yml")

AXES = """P = build(*args, **options)
shape = {shape}
index = _np.arange(P.num_parameters).reshape(shape).transpose({axes}).reshape(-1)[P.index]
return _rebuilt(P, index=index)"""
OPTION = "options = dict(options)\n{change}\nreturn build(*args, **options)"

CONV = [
    builder(
        "the kernel is flipped",
        "patterns/convolution",
        "conv_pattern",
        "P = build(*args, **options)\nreturn _rebuilt(P, index=P.num_parameters - 1 - P.index)",
        "convolution",
        "conv-forward",
        fast=True,
    ),
    builder(
        "the last triple is missing",
        "patterns/convolution",
        "conv_pattern",
        "return _rebuilt(build(*args, **options), keep=slice(-1))",
        "convolution",
        "conv-forward",
    ),
    builder(
        "duplicates overwrite",
        "patterns/convolution",
        "conv_pattern",
        "P = build(*args, **options)\n"
        "cell = P.row[::-1] * P.shape[1] + P.col[::-1]\n"
        "keep = P.nnz - 1 - _np.unique(cell, return_index=True)[1]\n"
        "return _rebuilt(P, keep=_np.sort(keep))",
        "patterns",
        "pat-duplicates",
        fast=True,
    ),
    builder(
        "the dilation is ignored",
        "patterns/convolution",
        "conv_pattern",
        OPTION.format(change="options.pop('dilation', None)"),
        "convolution",
        "conv-forward",
    ),
    builder(
        "the padding sits on the other side",
        "patterns/convolution",
        "conv_pattern",
        OPTION.format(
            change="pads = options.get('padding', 0)\n"
            "if not isinstance(pads, (int, str)) and not isinstance(pads[0], int):\n"
            "    options['padding'] = [tuple(pair)[::-1] for pair in pads]"
        ),
        "convolution",
        "conv-triangular",
    ),
    builder(
        "circular padding is zero padding",
        "patterns/convolution",
        "conv_pattern",
        OPTION.format(
            change="if options.get('padding_mode') == 'circular':\n"
            "    options['padding_mode'] = 'zeros'"
        ),
        "convolution",
        "conv-forward",
    ),
    builder(
        "groups see one another",
        "patterns/convolution",
        "conv_pattern",
        "P = build(*args, **options)\n"
        "if options.get('groups', 1) == 1:\n"
        "    return P\n"
        "return _rebuilt(P, col=(P.col + 1) % P.shape[1])",
        "convolution",
        "conv-forward",
    ),
    builder(
        "every cell has its own parameter",
        "patterns/convolution",
        "conv_pattern",
        "P = build(*args, **options)\n"
        "return Pattern(P.shape, P.row, P.col, _np.arange(P.nnz), max(P.nnz, P.num_parameters))",
        "patterns",
        "pat-why-tying",
    ),
]
POOL = [
    builder(
        "averages divide by the width of the window",
        "layers/pooling",
        "avg_pool_pattern",
        "P, theta = build(*args, **options)\nreturn P, theta**0.5",
        "pooling",
        "pool-average",
        fast=True,
    ),
    builder(
        "padding counts although it should not",
        "layers/pooling",
        "avg_pool_pattern",
        OPTION.format(change="options.pop('count_include_pad', None)"),
        "pooling",
        "pool-divisors",
    ),
    builder(
        "an adaptive window lacks a pixel",
        "patterns/pooling",
        "adaptive_avg_pool_pattern",
        "P, divisors = build(*args, **options)\nreturn _rebuilt(P, keep=slice(1, None)), divisors",
        "pooling",
        "pool-adaptive",
    ),
    method(
        "max pooling selects the pixel before the largest",
        "layers/maxima",
        "MaxPool2d",
        "matrix",
        "S = true(self, *args, **options)\n"
        "P = S.pattern\n"
        "return _rebuilt(P, col=(P.col - 1).clip(0)).fill(S.values[:1])",
        "pooling",
        "pool-max-selection",
    ),
    method(
        "ties go to the last largest pixel",
        "layers/maxima",
        "MaxPool2d",
        "matrix",
        "import torch\n"
        "x = args[0]\n"
        "ramp = torch.linspace(0, 1e-9, x.numel(), dtype=x.dtype).view_as(x)\n"
        "return true(self, x + ramp, **options)",
        "pooling",
        "pool-ties",
    ),
]
RNN = [
    builder(
        "W_h is transposed",
        "patterns/recurrence",
        "recurrence_patterns",
        "N, B = build(*args, **options)\n"
        "h = int(N.num_parameters**0.5)\n"
        "return _rebuilt(N, index=N.index % h * h + N.index // h), B",
        "patterns",
        "pat-same-arrays",
        fast=True,
    ),
    builder(
        "W_h is transposed, seen by the layer's page",
        "patterns/recurrence",
        "recurrence_patterns",
        "N, B = build(*args, **options)\n"
        "h = int(N.num_parameters**0.5)\n"
        "return _rebuilt(N, index=N.index % h * h + N.index // h), B",
        "recurrence",
    ),
    builder(
        "time runs backward",
        "patterns/recurrence",
        "recurrence_patterns",
        "N, B = build(*args, **options)\nreturn N.T, B",
        "data2matrix",
        "data-triangular-layout",
        fast=True,
    ),
    builder(
        "the last step has no past",
        "patterns/recurrence",
        "recurrence_patterns",
        "N, B = build(*args, **options)\n"
        "h = int(N.num_parameters**0.5)\n"
        "return _rebuilt(N, keep=N.row < N.shape[0] - h), B",
        "recurrence",
        "rnn-implicit",
    ),
    builder(
        "the parameters of W_x are reversed",
        "patterns/recurrence",
        "recurrence_patterns",
        "N, B = build(*args, **options)\n"
        "return N, _rebuilt(B, index=B.num_parameters - 1 - B.index)",
        "recurrence",
        "rnn-implicit",
    ),
]
DIMS = "(args[1], args[1], args[1], args[2] if len(args) > 2 and args[2] else args[1])"
ATTENTION = [
    builder(
        "key and value features are exchanged",
        "patterns/attention",
        "attention_pattern",
        AXES.format(shape=DIMS, axes="(0, 2, 1, 3)"),
        "attention",
        "attn-cubic",
        fast=True,
    ),
    builder(
        "key and value features are exchanged, seen by the page on patterns",
        "patterns/attention",
        "attention_pattern",
        AXES.format(shape=DIMS, axes="(0, 2, 1, 3)"),
        "patterns",
        "pat-same-arrays",
    ),
    builder(
        "query and key features are exchanged",
        "patterns/attention",
        "attention_pattern",
        AXES.format(shape=DIMS, axes="(1, 0, 2, 3)"),
        "attention",
        "attn-cubic",
    ),
    builder(
        "a causal token does not see itself",
        "patterns/attention",
        "allowed_pairs",
        "i, j = build(*args, **options)\n"
        "keep = (i > j) | (i == 0) if options.get('causal') else slice(None)\n"
        "return i[keep], j[keep]",
        "attention",
        "attn-nnz",
    ),
    builder(
        "a window is one token too wide",
        "patterns/attention",
        "allowed_pairs",
        OPTION.format(change="if options.get('window') is not None:\n    options['window'] += 1"),
        "attention",
        "attn-nnz",
    ),
    method(
        "the core lacks its scale",
        "layers/attention",
        "SelfAttention",
        "core",
        "return true(self) * self.head_dim**0.5",
        "attention",
        "attn-multihead",
    ),
]
NORMS = [
    builder(
        "a group's mean lacks an entry",
        "patterns/normalisation",
        "mean_pattern",
        "return _rebuilt(build(*args, **options), keep=slice(1, None))",
        "transformer",
        "tf-norm",
    ),
    builder(
        "a norm's matrix is wider than its pattern",
        "patterns/normalisation",
        "norm_pattern",
        "return _rebuilt(build(*args, **options), keep=slice(1, None))",
        "transformer",
        "tf-norm",
    ),
]
CORE = [
    builder(
        "the commutation matrix is the inverse one",
        "data2matrix",
        "commutation_order",
        "return build(*args[::-1], **options)",
        "data2matrix",
        "data-channels-last",
        fast=True,
    ),
    builder(
        "windows skip a step",
        "patterns/simple",
        "lag_pattern",
        "P = build(*args, **options)\nreturn _rebuilt(P, col=P.col[::-1].copy())",
        "data2matrix",
        "data-lag",
    ),
    builder(
        "tokens are counted from one",
        "patterns/simple",
        "one_hot_pattern",
        "P = build(*args, **options)\nreturn _rebuilt(P, col=(P.col + 1) % P.shape[1])",
        "data2matrix",
        "data-embedding",
    ),
    Mutation(
        "lower and upper bandwidth of triples are exchanged",
        "sparsemat/pattern.py",
        "\n_low, _up = Pattern.lower_bandwidth, Pattern.upper_bandwidth\n"
        "Pattern.lower_bandwidth, Pattern.upper_bandwidth = _up, _low\n",
        "gated",
        "gate-lstm",
    ),
    Mutation(
        "lower and upper bandwidth of a Kronecker product are exchanged",
        "sparsemat/kronecker.py",
        "\n_low, _up = KroneckerPattern.lower_bandwidth, KroneckerPattern.upper_bandwidth\n"
        "KroneckerPattern.lower_bandwidth, KroneckerPattern.upper_bandwidth = _up, _low\n",
        "convolution",
        "conv-same-band",
    ),
    method(
        "every pattern is upper-triangular",
        "pattern",
        "Pattern",
        "is_upper_triangular",
        "return True",
        "convolution",
        "conv-triangular",
        kind="property",
    ),
    method(
        "a permutation moves the rows only",
        "pattern",
        "Pattern",
        "permute",
        "return true(self, *args[:1])",
        "patterns",
        "pat-permute",
    ),
    method(
        "the product of patterns loses a cell",
        "pattern",
        "Pattern",
        "__matmul__",
        "P = true(self, *args)\nreturn _rebuilt(P, keep=slice(1, None))",
        "patterns",
        "pat-band-product",
    ),
    Mutation(
        "the prover believes everything",
        "sparsemat/proof.py",
        "\ndef prove(claim, given=()):\n    return None\n",
        "tests/test_proof.py",
    ),
    Mutation(
        "the prover forgets the hypotheses",
        "sparsemat/proof.py",
        "\n_true_prove = prove\ndef prove(claim, given=()):\n    _true_prove(claim)\n",
        "data2matrix",
        "data-flatten",
    ),
    Mutation(
        "the counterexample is not the smallest",
        "sparsemat/proof.py",
        "\n_true_refute = refute\ndef refute(claim, given=(), minimize=()):\n"
        "    return _true_refute(claim, given)\n",
        "tests/test_proof.py",
    ),
    Mutation(
        "all expressions are equal",
        "sparsemat/symbolic.py",
        "\ndef equal(left, right):\n    return True\n",
        "tests/test_symbolic.py",
    ),
]
CLAIMS = [claim(**row) for row in yaml.safe_load(LIST.read_text())]
STRUCTURED = [
    Mutation(**row | {"file": f"sparsemat/{row['file']}"})
    for row in yaml.safe_load(STRUCTURED_LIST.read_text())
]
MUTATIONS = [*CONV, *POOL, *RNN, *ATTENTION, *NORMS, *CORE, *CLAIMS, *STRUCTURED]
