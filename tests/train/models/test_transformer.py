"""The transformer against what its parts promise, and against torch's own attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.models.transformer import (
    Attention,
    Cache,
    Classifier,
    LanguageModel,
    Sees,
    Shape,
    Transformer,
    mean_over_tokens,
    next_token_loss,
    norm,
    rotated,
    rotation,
)

DECODER = Shape(vocabulary=11, context=16, layers=3, width=24, heads=3)
ENCODER = replace(DECODER, causal=False)
SHAPES = [
    pytest.param({"positions": positions, "qk_norm": qk_norm}, id=f"{positions}-{qk_norm}")
    for positions in ("rotary", "learned")
    for qk_norm in (True, False)
]


def made(kind: Any, shape: Shape, *more: Any) -> Any:
    """With weights that are not 0, as layers begin, in float64, so that sums in another order agree."""
    torch.manual_seed(3)
    model = kind(shape, *more).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def tokens(batch_size: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 11, (batch_size, length), generator=torch.Generator().manual_seed(seed))


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("options", SHAPES)
def test_a_later_token_changes_no_earlier_output(options: dict[str, Any]) -> None:
    model = made(LanguageModel, replace(DECODER, **options))
    text = tokens(2, 12)
    changed = text.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 11
    before, after = model(text), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert apart(before[:, 7], after[:, 7]) > 0.01
    assert apart(before[:, 11], after[:, 11]) > 1e-4  # which sees it through attention alone


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("shape", [DECODER, ENCODER], ids=["decoder", "encoder"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_padding_changes_nothing(shape: Shape, options: dict[str, Any], packed: bool) -> None:
    model = made(Transformer, replace(shape, packed=packed, **options))
    lengths = torch.tensor([5, 12, 1, 9])
    text = tokens(4, 12)
    padded, other = text.clone(), text.clone()
    for row, length in enumerate(lengths.tolist()):
        padded[row, length:], other[row, length:] = 0, 7
    with_padding, with_other = model(padded, lengths), model(other, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(text[row : row + 1, :length])[0]
        assert apart(with_padding[row, :length], alone) < 1e-12
        assert apart(with_other[row, :length], alone) < 1e-12


def test_packing_gives_the_gradients_of_padding() -> None:
    lengths, text = torch.tensor([3, 0, 7]), tokens(3, 7)
    gradients = []
    for packed in (False, True):
        model = made(Classifier, replace(ENCODER, packed=packed), 2)
        F.cross_entropy(model((text, lengths)), torch.tensor([0, 1, 1])).backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    assert max(apart(a, b) for a, b in zip(*gradients, strict=True)) < 1e-12


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [0, 3])
def test_texts_without_a_token_are_numbers_and_change_no_other(packed: bool, length: int) -> None:
    model = made(Classifier, replace(ENCODER, packed=packed), 2)
    text, lengths = tokens(2, length), torch.tensor([0, length])
    logits = model((text, lengths))
    assert torch.isfinite(logits).all()
    assert apart(logits[1:], model((text[1:], lengths[1:]))) < 1e-12
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("parts", [[1] * 12, [5, 1, 1, 4, 1], [12]], ids=["each", "chunks", "whole"])
def test_with_a_cache_it_says_what_it_says_without(options: dict[str, Any], parts: list[int]) -> None:
    model = made(LanguageModel, replace(DECODER, **options))
    text = tokens(2, 12)
    cache = Cache.empty(model.shape, 2, model.head.weight)
    found = torch.cat([model(part, cache=cache) for part in text.split(parts, dim=1)], dim=1)
    assert cache.length == 12
    assert apart(found, model(text)) < 1e-12


def test_rotary_positions_depend_on_distance_alone() -> None:
    q, k = (torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    cosines, sines = (x.double() for x in rotation(50, 8))
    turned_q, turned_k = (rotated(x.expand(50, 8), cosines, sines) for x in (q, k))
    scores = turned_q @ turned_k.T  # (50, 50): place of the query, of the key
    for distance in (-7, 0, 1, 30):
        diagonal = scores.diagonal(distance)
        assert apart(diagonal, diagonal[:1].expand_as(diagonal)) < 1e-5  # angles are of float32
    assert apart(scores.diagonal(0)[:1], (q @ k)[None]) < 1e-12
    assert scores.diagonal(1)[0] != scores.diagonal(2)[0]
    assert apart(turned_q.norm(dim=1), q.norm().expand(50)) < 1e-6


def test_attention_looks_the_same_wherever_a_text_begins() -> None:
    attention = made(Attention, DECODER)
    x = torch.randn(2, 6, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cosines, sines = (angles.double() for angles in rotation(50, 8))

    def at(first: int, step: int = 1) -> Tensor:
        places = slice(first, first + 6 * step, step)
        sees = Sees((2, 6), (cosines[places, None], sines[places, None]), None, True, None)
        return attention(x, sees, None, 0)  # type: ignore[no-any-return]

    assert apart(at(0), at(30)) < 1e-5
    assert apart(at(0), at(0, step=2)) > 0.01  # but distances count


def test_what_a_token_is_told_of_the_others_order() -> None:
    """Without positions an encoder does not know the order of the others; with them it does."""
    model = made(Transformer, replace(ENCODER, positions="learned"))
    text = tokens(1, 8)
    order = torch.tensor([3, 1, 0, 7, 2, 6, 5, 4])
    assert apart(model(text[:, order]), model(text)[:, order]) > 0.01
    nn.init.zeros_(model.places.weight)
    assert apart(model(text[:, order]), model(text)[:, order]) < 1e-12
    rotary = made(Transformer, ENCODER)
    assert apart(rotary(text[:, order]), rotary(text)[:, order]) > 0.01


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch(causal: bool) -> None:
    shape = replace(DECODER, qk_norm=False, positions="learned", causal=causal)
    ours = made(Attention, shape)
    theirs = nn.MultiheadAttention(24, 3, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.out_proj.weight.copy_(ours.out.weight)
    x = torch.randn(4, 9, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64) if causal else None
    expected, _ = theirs(x, x, x, attn_mask=mask, need_weights=False)
    assert apart(ours(x, Sees((4, 9), None, None, causal, None), None, 0), expected) < 1e-12


def test_qk_norm_bounds_what_attention_compares() -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) * 100
    assert norm(x).norm(dim=1).tolist() == pytest.approx([8**0.5] * 5)


def test_the_mean_is_over_tokens_alone() -> None:
    hidden = torch.arange(12.0).view(2, 3, 2)
    assert mean_over_tokens(hidden, torch.tensor([2, 0])).tolist() == [[1.0, 2.0], [0.0, 0.0]]


def test_the_loss_of_a_text_is_that_of_its_tokens() -> None:
    logits = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(0))
    targets = tokens(2, 3)
    log_p = logits.log_softmax(2).gather(2, targets[:, :, None])[:, :, 0]
    assert next_token_loss(logits, targets).tolist() == pytest.approx((-log_p.sum(1)).tolist())
    assert next_token_loss(logits, targets, torch.tensor([1, 3])).tolist() == pytest.approx(
        [float(-log_p[0, 0]), float(-log_p[1].sum())]
    )


def test_a_sequence_longer_than_the_context_is_refused() -> None:
    model = made(LanguageModel, DECODER)
    with pytest.raises(ValueError, match="17 tokens, but the transformer's context is 16"):
        model(tokens(1, 17))
    cache = Cache.empty(model.shape, 1, model.head.weight)
    model(tokens(1, 16), cache=cache)
    with pytest.raises(ValueError, match="17 tokens"):
        model(tokens(1, 1), cache=cache)


def test_heads_must_have_an_even_width() -> None:
    with pytest.raises(ValueError, match="a width of 24 and 5 heads"):
        replace(DECODER, heads=5)


def test_it_begins_by_knowing_nothing() -> None:
    """Every token is equally likely: the first loss is ln(vocabulary)."""
    torch.manual_seed(0)
    assert apart(LanguageModel(DECODER)(tokens(2, 9)), torch.zeros(2, 9, 11)) == 0
