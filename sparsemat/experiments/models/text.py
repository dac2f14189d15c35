"""Networks for text: Transformer blocks whose attention is native, or a matrix A(X)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsemat as sm

VARIANTS = ("native", "tied", "linear", "windowed")
WINDOW = 8  # of the windowed variant, in tokens to either side


@dataclass(frozen=True)
class TextClassifier:
    """A Transformer encoder over a text cut or padded to one length, averaged over its words.

    Variants: "native" (``torch.nn.MultiheadAttention``); "tied" (``sm.SelfAttention`` with its
    parameters, the matrix A(X) explicit); "linear" (without softmax: the third-order form);
    "windowed" (A(X) banded: a token sees at most 8 to either side).

    Args:
        vocabulary: Number of token ids; 0 is padding, and the average leaves it out.
        length: Tokens T of a text.
        classes: Number of classes.
        dim: Features d of a token.
        heads: Attention heads.
        feedforward: Hidden size of the position-wise layers.
        layers: Transformer blocks.
        dropout: Of embeddings and of what a block adds.
    """

    vocabulary: int
    length: int
    classes: int
    dim: int
    heads: int
    feedforward: int
    layers: int
    dropout: float

    variants: ClassVar[tuple[str, ...]] = VARIANTS

    def module(self, variant: str) -> nn.Module:
        """The network of a variant: from tokens ``(N, T)`` to logits ``(N, classes)``."""
        return _Classifier(self, variant)

    def nonzeros(self, variant: str) -> int:
        """Nonzeros of the matrices that one text meets: those of the blocks, and the read-out."""
        return _nonzeros(self, variant, causal=False) + self.dim * self.classes


@dataclass(frozen=True)
class LanguageModel:
    """A causal Transformer that gives each word a probability; embeddings are also the read-out.

    Variants: as :class:`TextClassifier`, with causal masks; "windowed" sees 8 tokens back.

    Args:
        vocabulary: Number of token ids, ordered by falling frequency.
        length: Tokens T of a block.
        dim: Features d of a token.
        heads: Attention heads.
        feedforward: Hidden size of the position-wise layers.
        layers: Transformer blocks.
        dropout: Of embeddings and of what a block adds.
        cuts: Borders between the frequent words and the clusters of rarer ones; see
            :class:`ClusteredSoftmax`.
        readout_dropout: Of the states that the softmax reads.
    """

    vocabulary: int
    length: int
    dim: int
    heads: int
    feedforward: int
    layers: int
    dropout: float
    cuts: tuple[int, ...]
    readout_dropout: float = 0.0

    variants: ClassVar[tuple[str, ...]] = VARIANTS

    def module(self, variant: str) -> nn.Module:
        """The network of a variant: from tokens and next tokens ``(N, T)`` to nats ``(N, T)``."""
        return _LanguageModel(self, variant)

    def nonzeros(self, variant: str) -> int:
        """Nonzeros of the matrices that one block meets: Transformer blocks and full read-out."""
        readout = self.length * self.dim * self.vocabulary
        return _nonzeros(self, variant, causal=True) + readout


def _nonzeros(network: TextClassifier | LanguageModel, variant: str, causal: bool) -> int:
    window = WINDOW if variant == "windowed" else None
    pairs = sm.attention_pattern(network.length, 1, causal=causal, window=window).nnz
    token = 4 * network.dim**2 + 2 * network.dim * network.feedforward
    return network.layers * (network.length * token + network.heads * pairs)


class _Embedding(nn.Module):
    """Word and position, as one vector a token."""

    def __init__(self, network: TextClassifier | LanguageModel) -> None:
        super().__init__()
        self.scale = network.dim**0.5
        self.word = nn.Embedding(network.vocabulary, network.dim)
        self.position = nn.Parameter(0.1 * torch.randn(network.length, network.dim))
        nn.init.normal_(self.word.weight, std=0.5 / self.scale)
        self.dropout = nn.Dropout(network.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.scale * self.word(tokens) + self.position)


class _Block(nn.Module):
    """Attention and a position-wise network, each added to what came in, normalised before."""

    def __init__(self, network: TextClassifier | LanguageModel, variant: str, causal: bool) -> None:
        super().__init__()
        dim, heads = network.dim, network.heads
        if variant == "native":
            self.attention = NativeAttention(dim, heads, causal)
        else:
            softmax = variant != "linear"
            self.attention = sm.SelfAttention(
                dim,
                heads,
                batch_first=True,
                softmax=softmax,
                causal=causal,
                window=WINDOW if variant == "windowed" else None,
                # A(X) itself, never torch's fused kernel, which is what the native layer calls
                form="square" if softmax else None,
            )
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, network.feedforward), nn.GELU(), nn.Linear(network.feedforward, dim)
        )
        self.dropout = nn.Dropout(network.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feedforward(self.norm2(x)))


class NativeAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` of a sequence to itself, called with the sequence alone."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__(dim, heads, batch_first=True)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, d)`` to ``(N, T, d)``."""
        y, _ = self._attend(x, need_weights=False)
        # dropout draws its mask in the order of memory, so both kinds of attention must agree on it
        return y.contiguous()

    def attention(self, x: Tensor) -> Tensor:
        """The matrices A(X) that torch multiplied by, ``(N, heads, T, T)``."""
        return self._attend(x, need_weights=True, average_attn_weights=False)[1]

    def _attend(self, x: Tensor, **options: bool) -> tuple[Tensor, Tensor | None]:
        mask = None
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(
                x.shape[1], device=x.device, dtype=x.dtype
            )
        return super().forward(x, x, x, attn_mask=mask, is_causal=self.causal, **options)


@torch.no_grad()
def attention_matrices(model: nn.Module, tokens: Tensor) -> Tensor:
    """The matrices A(X) of the first block of a text network, for looking at.

    Args:
        model: A network of any variant, in evaluation mode.
        tokens: Ids, int64 ``(N, T)``.

    Returns:
        Tensor of shape ``(N, heads, T, T)``; entry ``[n, h, i, j]`` is what token i takes from j.
    """
    block = model.blocks[0]
    return block.attention.attention(block.norm1(model.embedding(tokens)))


class _Classifier(nn.Module):
    def __init__(self, network: TextClassifier, variant: str) -> None:
        super().__init__()
        self.embedding = _Embedding(network)
        self.blocks = nn.Sequential(
            *(_Block(network, variant, causal=False) for _ in range(network.layers))
        )
        self.norm = nn.LayerNorm(network.dim)
        self.linear = nn.Linear(network.dim, network.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.embedding(tokens)))
        words = (tokens != 0).to(x.dtype)
        words = words / words.sum(1, keepdim=True).clamp(min=1)
        return self.linear(torch.einsum("nt,ntd->nd", words, x))


class _LanguageModel(nn.Module):
    def __init__(self, network: LanguageModel, variant: str) -> None:
        super().__init__()
        self.embedding = _Embedding(network)
        self.blocks = nn.Sequential(
            *(_Block(network, variant, causal=True) for _ in range(network.layers))
        )
        self.norm = nn.LayerNorm(network.dim)
        self.dropout = nn.Dropout(network.readout_dropout)
        self.softmax = ClusteredSoftmax(network.vocabulary, network.dim, network.cuts)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.blocks(self.embedding(tokens))))
        nats = self.softmax(x.flatten(0, 1), targets.flatten(), self.embedding.word.weight)
        return nats.view_as(targets)


class ClusteredSoftmax(nn.Module):
    """A softmax over words in two steps: a frequent word or a cluster, then a word of the cluster.

    It gives every word a probability, and they sum to one, at a fraction of the cost of a softmax
    over all words. ``nn.AdaptiveLogSoftmaxWithLoss`` is the same idea with weights of its own; here
    a word's weight is its embedding.

    Args:
        vocabulary: Number of words, ordered by falling frequency.
        dim: Features d of a state.
        cuts: Where the clusters begin; none for a plain softmax.
    """

    def __init__(self, vocabulary: int, dim: int, cuts: tuple[int, ...]) -> None:
        super().__init__()
        if list(cuts) != sorted(set(cuts)) or any(not 0 < cut < vocabulary for cut in cuts):
            raise ValueError(
                f"cuts must rise strictly between 0 and vocabulary={vocabulary}, got {cuts}"
            )
        self.borders = [0, *cuts, vocabulary]
        # Zipf's law: the frequency of a word is about the inverse of its rank
        zipf = -(torch.arange(vocabulary) + 3.0).log()
        of_clusters = [zipf[start:stop].logsumexp(0) for start, stop in self._clusters()]
        self.bias = nn.Parameter(zipf)
        self.cluster_weight = nn.Parameter(torch.randn(len(cuts), dim) * 0.05)
        self.cluster_bias = nn.Parameter(torch.tensor(of_clusters))

    def forward(self, states: Tensor, targets: Tensor, words: Tensor) -> Tensor:
        """The nats of each target: minus the logarithm of its probability.

        Args:
            states: Shape ``(n, d)``.
            targets: Word ids, int64 ``(n,)``.
            words: Weights of the words, shape ``(vocabulary, d)``.

        Returns:
            Tensor of shape ``(n,)``.
        """
        head = self.borders[1]
        weight = torch.cat([words[:head], self.cluster_weight])
        logits = F.linear(states, weight, torch.cat([self.bias[:head], self.cluster_bias]))
        place = targets.clamp(max=head - 1)
        for k, (start, _) in enumerate(self._clusters()):
            place = torch.where(targets >= start, head + k, place)
        nats = F.cross_entropy(logits, place, reduction="none")
        for start, stop in self._clusters():
            (at,) = ((targets >= start) & (targets < stop)).nonzero(as_tuple=True)
            logits = F.linear(states[at], words[start:stop], self.bias[start:stop])
            inside = F.cross_entropy(logits, targets[at] - start, reduction="none")
            nats = nats.index_add(0, at, inside.to(nats.dtype))
        return nats

    def _clusters(self) -> list[tuple[int, int]]:
        return list(zip(self.borders[1:-1], self.borders[2:], strict=True))
