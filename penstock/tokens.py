"""Texts as tokens: tokenisers of the library `tokenizers`, learnt from counts, which cards keep as the library's JSON.

    Characters   a token for each character that the training rows have
    BytePairs    a token for each byte, and for what `size` leaves room for: pairs of tokens that follow each other most
                 often within a word, joined one after the other. Any text can be written so, and read back

Token 0 is none of a text: it pads. Of characters 1 stands for those that the training rows lack. What is learnt follows
from the counts alone, in whatever order they come: pairs that are equally frequent are joined in the tokens' order.

Source of byte pairs: Sennrich, Haddow & Birch, arXiv:1508.07909; over bytes, in words cut by a pattern: Radford et al.,
"Language Models are Unsupervised Multitask Learners", 2019, section 2.2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from penstock.card import Card
from penstock.errors import RunError

# No text can hold these as a token: one has more than one character, and both a blank, which bytes are not shown as.
PADDING, UNKNOWN = "<no token>", "<unknown character>"
NUM_BYTES = 256
KINDS = ("characters", "byte_pairs")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tasks and ranks are processes already


def _cutter(kind: str) -> Any:
    """What cuts a text into the pieces that are counted, and within which tokens are joined."""
    if kind == "characters":
        return pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def pieces(texts: pa.Array, kind: str) -> pa.Array:
    """Strings -> lists of their pieces, in each of which a byte is a character; none for null."""
    cut = _cutter(kind).pre_tokenize_str
    return pa.array([[piece for piece, _ in cut(text or "")] for text in texts.to_pylist()], pa.list_(pa.string()))


def characters(counted: Iterable[str]) -> dict[str, Any]:
    """A tokeniser as JSON, of characters that may come in any order."""
    vocabulary = {token: i for i, token in enumerate([PADDING, UNKNOWN, *sorted(counted)])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.pre_tokenizer, made.decoder = _cutter("characters"), decoders.Fuse()
    return _json(made)


def byte_pairs(counted: Iterable[tuple[str, int]], size: int) -> dict[str, Any]:
    """A tokeniser of at most `size` tokens as JSON, from pieces, in any order, and how often each is there."""
    made = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator((piece for piece, count in counted for piece in repeat(piece, count)), trainer)
    made.pre_tokenizer, made.decoder = _cutter("byte_pairs"), decoders.ByteLevel()
    return _json(made)


def _json(made: Tokenizer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.to_str())
    found["added_tokens"] = []  # else a text that says "<no token>" would have one
    return found


def encode(texts: pa.Array, tokenizer: str) -> pa.Array:
    """Strings -> lists of int32 tokens by a tokeniser's JSON; none for null."""
    encoded = _loaded(tokenizer).encode_batch_fast([text or "" for text in texts.to_pylist()])
    found = [one.ids for one in encoded]
    offsets = np.cumsum([0, *map(len, found)]).astype(np.int32)
    values = np.fromiter((token for tokens in found for token in tokens), np.int32, offsets[-1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


@cache  # an executor has many batches
def _loaded(tokenizer: str) -> Tokenizer:
    return Tokenizer.from_str(tokenizer)


def fitted(card: Card, field: str) -> Mapping[str, Any]:
    """What the card keeps of a field's tokeniser. Raises: RunError where the field is not made of tokens."""
    found: Mapping[str, Any] = card.transforms.get(field, {})
    if found.get("kind") not in KINDS:
        raise RunError(
            f"version {card.version}: the card has no tokeniser for field {field!r}; build the dataset with Characters "
            f"or BytePairs in the recipe's transforms"
        )
    return found


def tokenizer(card: Card, field: str) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(fitted(card, field)["tokenizer"]))


def vocabulary_size(card: Card, field: str) -> int:
    return len(fitted(card, field)["tokenizer"]["model"]["vocab"])
