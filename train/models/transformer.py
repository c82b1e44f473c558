"""A transformer that fits on a screen: encoder or decoder, padded or packed, with a key-value cache for generation.

    shape = Shape(vocabulary=65, context=256, causal=True)
    logits = LanguageModel(shape)(tokens)                        # (B, T) int -> (B, T, vocabulary)
    hidden = Transformer(shape)(tokens, lengths)                 # (B, T), (B,) -> (B, T, width)
    text = mean_over_tokens(hidden, lengths)                     # (B, width)

Sources, of the whole: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762; norms before each part, not
behind: Xiong et al., arXiv:2002.04745; of everything else the function that does it says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Shape:
    """How large a transformer is, and what its tokens see."""

    vocabulary: int  # tokens are 0 to vocabulary - 1
    context: int  # of the longest sequence, in tokens
    layers: int = 4
    width: int = 128
    heads: int = 4
    expansion: int = 4  # of the feed-forward part: its hidden layer is so many times as wide
    causal: bool = True  # a token sees those before it and itself; False: all tokens of its sequence
    positions: Literal["rotary", "learned"] = "rotary"
    qk_norm: bool = True
    dropout: float = 0.0
    packed: bool = False  # leave padding out of all products but attention's: reads the number of tokens back

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"expected heads of an even width, found a width of {self.width} and {self.heads} heads")


@dataclass
class Cache:
    """The keys and values of the tokens that each layer has seen, for the next ones to look at: (B, H, context, D)."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0

    @classmethod
    def empty(cls, shape: Shape, batch_size: int, like: Tensor) -> Cache:
        """Of the device and the dtype of `like`, such as one of the model's weights."""
        size = (batch_size, shape.heads, shape.context, shape.width // shape.heads)
        keys, values = ([like.new_zeros(size) for _ in range(shape.layers)] for _ in range(2))
        return cls(keys, values)


@dataclass(frozen=True)
class Sees:
    """What is the same for all layers: where tokens stand, and which keys each of them may look at."""

    size: tuple[int, int]  # B, T
    rotation: tuple[Tensor, Tensor] | None  # cosines and sines, (T, 1, D / 2) each; packed (N, 1, D / 2)
    mask: Tensor | None  # broadcast to (B, H, T, keys), True where a token looks
    causal: bool  # instead of a mask
    real: Tensor | None  # (N,) where the tokens that are no padding lie among the B * T; None: all are there


class Transformer(nn.Module):
    """Tokens to their hidden states, behind a last norm."""

    cosines: Tensor  # (context, D / 2)
    sines: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.places = nn.Embedding(shape.context, shape.width) if shape.positions == "learned" else None
        self.dropout = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        cosines, sines = rotation(shape.context, shape.width // shape.heads)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self.apply(_initialise)
        for block in self.blocks:  # each layer begins as the identity
            assert isinstance(block, Block)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.down.weight)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """(B, T) int -> (B, T, width); of sequences that are padded at their end, (B,) `lengths` says where.

        What it gives for padding is of no use. With a `cache` the tokens come after those that it has, unpadded, and
        it has them too afterwards.

        Raises: ValueError for more tokens than the context has.
        """
        batch_size, num_tokens = tokens.shape
        start = 0 if cache is None else cache.length
        if start + num_tokens > self.shape.context:
            raise ValueError(
                f"a sequence of {start + num_tokens} tokens, but the transformer's context is {self.shape.context}: "
                f"cut it, or make the context longer"
            )
        sees = self._sees(tokens, lengths, start)
        h = self.tokens(_flat(tokens, sees.real))  # (B, T, width), or packed (N, width)
        if self.places is not None:
            places = torch.arange(start, start + num_tokens, device=tokens.device).expand(batch_size, -1)
            h = h + self.places(_flat(places, sees.real))
        h = self.dropout(norm(h))
        for i, block in enumerate(self.blocks):
            h = block(h, sees, cache, i)
        if cache is not None:
            cache.length += num_tokens
        return _padded(norm(h), sees)

    def _sees(self, tokens: Tensor, lengths: Tensor | None, start: int) -> Sees:
        (batch_size, num_tokens), device = tokens.shape, tokens.device
        mask = real = None
        causal = self.shape.causal and start == 0
        if self.shape.causal and start and num_tokens > 1:
            queries = torch.arange(start, start + num_tokens, device=device)
            mask = torch.arange(start + num_tokens, device=device) <= queries[:, None]  # (T, keys)
        if lengths is not None:
            is_real = torch.arange(num_tokens, device=device) < lengths[:, None]  # (B, T)
            if self.shape.packed and not torch.compiler.is_exporting():
                real = is_real.flatten().nonzero().squeeze(1)
            if not self.shape.causal:  # where it is, what is behind a token is hidden from it anyway
                # An empty sequence looks at its first padding: a softmax over nothing is no number.
                first = torch.arange(num_tokens, device=device) == 0
                mask = (is_real | first)[:, None, None]  # (B, 1, 1, T)
        turned = None
        if self.shape.positions == "rotary":
            places = slice(start, start + num_tokens) if real is None else real % num_tokens
            turned = self.cosines[places, None], self.sines[places, None]
        return Sees((batch_size, num_tokens), turned, mask, causal, real)


class Block(nn.Module):
    """h + attention(norm(h)), then h + feed_forward(norm(h)).

    The feed-forward part is W2 relu(W1 h)²: So et al., "Primer", arXiv:2109.08668, section 3.1.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.up = nn.Linear(shape.width, shape.expansion * shape.width, bias=False)
        self.down = nn.Linear(shape.expansion * shape.width, shape.width, bias=False)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, h: Tensor, sees: Sees, cache: Cache | None, layer: int) -> Tensor:
        h = h + self.dropout(self.attention(norm(h), sees, cache, layer))
        hidden = F.relu(self.up(norm(h))).square()
        return h + self.dropout(self.down(hidden))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """softmax(q kᵀ / √D) v in each of H heads of width D: arXiv:1706.03762, eq. 1 and section 3.2.2.

    With `qk_norm` queries and keys are of length √D before: Dehghani et al., arXiv:2302.05442, section 2.1.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.width, self.qk_norm = shape.heads, shape.width // shape.heads, shape.qk_norm
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.width, bias=False)
        self.value = nn.Linear(shape.width, shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, h: Tensor, sees: Sees, cache: Cache | None, layer: int) -> Tensor:
        by_head = (self.heads, self.width)  # (B, T, H, D), or packed (N, H, D)
        q, k, v = (part(h).unflatten(-1, by_head) for part in (self.query, self.key, self.value))
        if self.qk_norm:
            q, k = norm(q), norm(k)
        if sees.rotation is not None:
            q, k = rotated(q, *sees.rotation), rotated(k, *sees.rotation)
        q, k, v = (_padded(x, sees).transpose(1, 2) for x in (q, k, v))  # (B, H, T, D)
        if cache is not None:
            stop = cache.length + k.shape[2]
            cache.keys[layer][:, :, cache.length : stop], cache.values[layer][:, :, cache.length : stop] = k, v
            k, v = cache.keys[layer][:, :, :stop], cache.values[layer][:, :, :stop]
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=sees.mask, is_causal=sees.causal)
        found = found.transpose(1, 2).flatten(2)  # (B, T, width)
        summed: Tensor = self.out(found if sees.real is None else found.flatten(0, 1)[sees.real])
        return summed


class LanguageModel(nn.Module):
    """What the next token is, for each token: logits (B, T, vocabulary)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.transformer = Transformer(shape)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        nn.init.zeros_(self.head.weight)

    @property
    def shape(self) -> Shape:
        return self.transformer.shape

    def forward(self, tokens: Tensor, lengths: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        logits: Tensor = self.head(self.transformer(tokens, lengths, cache))
        return logits


class Classifier(nn.Module):
    """One of several classes for each text, from the mean of its tokens' hidden states: logits (B, classes)."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.transformer = Transformer(shape)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(shape.width, classes)

    def forward(self, texts: tuple[Tensor, Tensor]) -> Tensor:
        """(B, T) tokens and (B,) their number."""
        tokens, lengths = texts
        hidden = mean_over_tokens(self.transformer(tokens, lengths), lengths)
        logits: Tensor = self.head(self.dropout(hidden))
        return logits


def next_token_loss(logits: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
    """(B, T, vocabulary), (B, T) -> (B,) -ln p of each row's tokens, added up; padding behind `lengths` counts 0."""
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten().long(), reduction="none").view(targets.shape)
    if lengths is not None:
        losses = losses * (torch.arange(targets.shape[1], device=targets.device) < lengths[:, None])
    return losses.sum(dim=1)


def mean_over_tokens(hidden: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, width), (B,) -> (B, width); zeros for an empty sequence."""
    is_real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    total = (hidden * is_real[:, :, None]).sum(dim=1)
    return total / lengths.clamp(min=1)[:, None]


def norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last axis, without weights. Source: Zhang & Sennrich, "RMSNorm", arXiv:1910.07467, eq. 4."""
    return F.rms_norm(x, (x.shape[-1],))


def rotation(context: int, head_width: int) -> tuple[Tensor, Tensor]:
    """(context, D / 2) cosines and sines of t θ_i, θ_i = base^(-2 i / D). Source: as `rotated`."""
    angles = ROTARY_BASE ** (-torch.arange(0, head_width, 2) / head_width)
    turned = torch.outer(torch.arange(context).float(), angles)
    return turned.cos(), turned.sin()


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """(…, D): the pair (x_i, x_{i + D/2}) at place t turned by t θ_i, so that q · k depends on their distance alone.

    The angles of each one's place: broadcast to (…, D / 2).
    Source: Su et al., "RoFormer", arXiv:2104.09864, eq. 34, with pairs of halves instead of neighbours, as GPT-NeoX.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1).type_as(x)


def _flat(x: Tensor, real: Tensor | None) -> Tensor:
    """(B, T) as it is, or packed: (N,)."""
    return x if real is None else x.flatten()[real]


def _padded(x: Tensor, sees: Sees) -> Tensor:
    """(N, …) packed -> (B, T, …), zeros for padding; what is not packed as it is.

    Source of packing: Zeng et al., "Boosting Distributed Training Performance of the Unpadded BERT Model",
    arXiv:2208.08124.
    """
    if sees.real is None:
        return x
    whole = x.new_zeros(sees.size[0] * sees.size[1], *x.shape[1:])
    return whole.index_copy(0, sees.real, x).view(*sees.size, *x.shape[1:])


def _initialise(module: nn.Module) -> None:
    """Uniform matrices of deviation 1/√fan-in; embeddings are small, since a norm follows and steps are of one size."""
    if isinstance(module, nn.Linear):
        bound = math.sqrt(3 / module.in_features)
        nn.init.uniform_(module.weight, -bound, bound)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.1)
