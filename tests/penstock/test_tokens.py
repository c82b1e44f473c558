"""Tokenisers: learnt from counts in any order, lossless, and none of their own tokens can come from a text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock import tokens

WORDS = ["the", " the", " then", " other", ",", " be", "bee", " ab", " ba", "\n", " wörld"]
COUNTS = [(word.replace(" ", "Ġ"), 3 + i % 2) for i, word in enumerate(WORDS)]  # many pairs are equally frequent


def bpe(size: int = 290) -> str:
    return json.dumps(tokens.byte_pairs(tokens_of("the other then, the bee\nbe the ab ba wörld " * 3), size))


def tokens_of(text: str) -> list[tuple[str, int]]:
    (found,) = tokens.pieces(pa.array([text]), "byte_pairs").to_pylist()
    return list(Counter(found).items())


@settings(max_examples=20)
@given(st.permutations(COUNTS))
def test_the_order_of_counts_does_not_matter(counts: list[tuple[str, int]]) -> None:
    assert tokens.byte_pairs(counts, 280) == tokens.byte_pairs(COUNTS, 280)


def test_another_process_learns_the_same() -> None:
    program = (
        "import json; from penstock import tokens; from tests.penstock.test_tokens import COUNTS; "
        "print(json.dumps(tokens.byte_pairs(COUNTS[::-1], 280)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == tokens.byte_pairs(COUNTS, 280)


def test_the_pair_that_is_there_most_often_is_joined_first() -> None:
    """By hand: a b is there 5 + 2 times, b c 4 times, c d once."""
    merges = tokens.byte_pairs([("ab", 5), ("abc", 2), ("bc", 2), ("cd", 1)], 259)["model"]["merges"]
    assert merges == [["a", "b"], ["ab", "c"]] or merges == [["a", "b"], ["b", "c"]]
    assert merges[0] == ["a", "b"]


@given(st.text())
def test_byte_pairs_give_any_text_back(text: str) -> None:
    tokenizer = bpe()
    (found,) = tokens.encode(pa.array([text]), tokenizer).to_pylist()
    assert Tokenizer.from_str(tokenizer).decode(found) == text
    assert 0 not in found


@pytest.mark.parametrize("text", [tokens.PADDING, tokens.UNKNOWN, "<pad>"])
def test_no_text_holds_a_token_of_our_own(text: str) -> None:
    spoken = f"a {text} b"
    for tokenizer in (bpe(), json.dumps(tokens.characters(spoken))):
        (found,) = tokens.encode(pa.array([spoken]), tokenizer).to_pylist()
        assert 0 not in found
        assert Tokenizer.from_str(tokenizer).decode(found) == spoken


def test_characters_are_numbered_in_their_order_and_others_are_one() -> None:
    tokenizer = json.dumps(tokens.characters("ba\n c"))
    assert tokens.encode(pa.array(["abc", "é\n ", "", None]), tokenizer).to_pylist() == [[4, 5, 6], [1, 2, 3], [], []]


def test_pieces_are_words_with_their_blank() -> None:
    found = tokens.pieces(pa.array(["It's  the end", None]), "byte_pairs").to_pylist()
    assert found == [["It", "'s", "Ġ", "Ġthe", "Ġend"], []]
