"""What is taken for personal data, and what is not; masks leave the rest as it is."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock import personal

# Cards: the networks' published test numbers. IBANs: the examples of the registry of ISO 13616. Phones: numbers that
# Ofcom and the NANPA keep for fiction, and those that a text writes in odd ways.
FOUND = {
    "phone": [
        ("call 08700 000000 now", "call <phone> now"),
        ("+44 20 7946 0018", "<phone>"),
        ("tel:+447700900123.", "tel:<phone>."),
        ("0044 20 7946 0018", "<phone>"),
        ("+1 (212) 555-0123", "<phone>"),
        ("(212) 555-0123 or 212-555-0199", "<phone> or <phone>"),
        ("1-800-555-0199", "<phone>"),
        ("(020) 7946 0018", "<phone>"),
        ("0808 157 0123 2 claims", "<phone> 2 claims"),
        ("0171/2345678", "<phone>"),
        ("01 99 00 12 34", "<phone>"),
        ("+41 44 668 18 00", "<phone>"),
        ("Help08700000000150p per msg", "Help<phone>p per msg"),
        ("07700900123/07700900456", "<phone>/<phone>"),
        ("01.02.2011 at 07700900123", "01.02.2011 at <phone>"),
    ],
    "email": [
        ("a@b.co", "<email>"),
        ("write to ada.l+x@mail.example.org!", "write to <email>!"),
        ("<jörg@müller.example>", "<<email>>"),
        ("a@b.co,c@d.org", "<email>,<email>"),
    ],
    "card": [
        ("4111 1111 1111 1111", "<card>"),
        ("5500-0000-0000-0004", "<card>"),
        ("amex 378282246310005.", "amex <card>."),
        ("6011111111111117 12/26", "<card> 12/26"),
        ("3056 930902 5904", "<card>"),
        ("item 1234 4111111111111111", "item 1234 <card>"),
        ("2223003122003222", "<card>"),
    ],
    "iban": [
        ("DE89370400440532013000", "<iban>"),
        ("DE89 3704 0044 0532 0130 00 BIC COBADEFF", "<iban> BIC COBADEFF"),
        ("GB29-NWBK-6016-1331-9268-19", "<iban>"),
        ("no12 please pay fr14 2004 1010 0505 0001 3M02 606 now", "no12 please pay <iban> now"),
        ("BE68 5390 0754 7034, MT84MALT011000012345MTLCAST001S", "<iban>, <iban>"),
    ],
    "ip": [
        ("10.0.0.1", "<ip>"),
        ("from 192.168.1.17:8080.", "from <ip>:8080."),
        ("fe80::1ff:fe23:4567:890a", "<ip>"),
        ("[2001:db8::1] and ::ffff:192.0.2.1.", "[<ip>] and <ip>."),
    ],
}
FOUND["iban"].append(("konto_DE89370400440532013000", "konto_<iban>"))
NOT_FOUND = {
    "phone": [
        *("2011-12-01 08:26:00", "01.02.2011 12:30", "15/07/2011 1030 0900", "05-07-2011 1030 0900", "1362062307"),
        *("£1.50", "1,234,567.89", "0.123456789012", "+12.345.678 EUR", "+1,000,000", "+5 %", "100 000 000"),
        *("v1.2.3.4", "10.0.19041.1237", "192.168.100.200", "2.0.0-rc.1+build.5", "1.17.0"),
        *("INV0123456789", "INV-0123456789", "C536379", "85123A", "No. 536365", "ISBN 978-0-306-40615-7"),
        *("87121", "0 1 2 3 4 5", "a 5-year-old", "0001234567", "2011-301-2011"),
    ],
    "email": ["@ada", "31p.msg@150p", "root@localhost", "a @ b.co", "a@b.", "@media.print"],
    "card": [
        *("4111 1111 1111 1112", "1234567890123452", "4006381333931", "14111111111111111111"),
        *("0.4111111111111111", "4111111111111111a", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    ],
    "iban": ["DE89370400440532013001", "DE8937040044053201300", "AB12 CDEF 0123 4567 8901", "XDE89370400440532013000"],
    "ip": [
        *("1.2.3", "v1.2.3.4", "256.1.1.1", "1.2.3.4.5", "01.02.2011", "12:30:45", "00:1B:44:11:3A:B7"),
        *("std::vector", "Bad::Face", "a: b:", "::"),
    ],
}


@pytest.mark.parametrize(("kind", "text", "masked"), [(k, *pair) for k, pairs in FOUND.items() for pair in pairs])
def test_personal_data_becomes_a_token(kind: str, text: str, masked: str) -> None:
    texts, changed = personal.mask(pa.array([text, None, "nothing"]), [kind])
    assert texts.to_pylist() == [masked, None, "nothing"]
    assert changed[kind].to_pylist() == [True, False, False]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NOT_FOUND.items() for text in texts])
def test_what_only_looks_like_it_stays(kind: str, text: str) -> None:
    assert personal.mask(pa.array([text]), [kind])[0].to_pylist() == [text]


def test_kinds_do_not_take_parts_of_each_other() -> None:
    text = "0044 is in DE89 3704 0044 0532 0130 00; 4111 1111 1111 1111; 10.0.0.1; +4420@79460018.org; 020 7946 0018"
    masked, changed = personal.mask(pa.array(["x", text]), list(personal.KINDS))
    assert masked.to_pylist()[1] == "0044 is in <iban>; <card>; <ip>; <email>; <phone>"
    assert all(which.to_pylist() == [False, True] for which in changed.values())


# Texts of what the patterns are made of, so that generated ones come near them.
PIECES = [
    "0",
    "00",
    "+",
    "49",
    "12",
    "2",
    "345",
    "4111",
    "@",
    "a",
    "DE",
    "x.y",
    ".",
    ":",
    "::",
    "-",
    " ",
    "/",
    "(",
    ")",
    ",",
    "é",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
KINDS = {**personal.KINDS, "phone, where it is not expected": personal.LOOKED_FOR["phone"]}


@given(TEXTS)
@example("a@x.y")
def test_arrow_picks_every_text_in_which_python_finds_something(text: str) -> None:
    for name, kind in KINDS.items():
        if any(True for _ in kind.spans(text)):
            assert pa.compute.match_substring_regex(pa.array([text]), kind.hint).to_pylist() == [True], name


@given(TEXTS | st.text(max_size=30), st.sets(st.sampled_from(list(personal.KINDS))))
def test_a_mask_leaves_the_rest_of_a_text_and_nothing_to_find(text: str, kinds: set[str]) -> None:
    [masked] = personal.mask(pa.array([text]), kinds)[0].to_pylist()
    at = 0
    for piece in masked.replace("<", "\0<").replace(">", ">\0").split("\0"):
        if piece not in {f"<{kind}>" for kind in kinds}:  # what is no token is there, in this order
            assert piece in text[at:]
            at = text.index(piece, at) + len(piece)
    for kind in kinds:
        assert not list(personal.KINDS[kind].spans(masked)) or masked == text


def digit(number: str) -> str:
    return next(d for d in "0123456789" if personal.luhn(number + d))


@given(st.text("0123456789", min_size=15, max_size=15), st.integers(0, 14), st.integers(1, 9))
def test_luhn_notices_every_single_wrong_digit(start: str, place: int, other: int) -> None:
    number = start + digit(start)
    wrong = number[:place] + str((int(number[place]) + other) % 10) + number[place + 1 :]
    assert personal.luhn(number)
    assert not personal.luhn(wrong)


def look(column: list[str | None]) -> dict[str, int]:
    return personal.looks_personal(personal.found(pa.array(column, pa.string()), personal.LOOKED_FOR))


def test_a_column_that_holds_personal_data_is_found_out() -> None:
    assert look(["Ada, ada@example.org", None, "", "call +44 20 7946 0018", "(020) 7946 0018"]) == {
        "email": 1,
        "phone": 2,
    }
    assert look(["cash", "4111111111111111", "DE89370400440532013000"]) == {"iban": 1, "card": 1}
    assert look(["paid with 4111 1111 1111 1111"] + ["a" * 16] * 10) == {"card": 1}


def test_ids_dates_and_amounts_are_not_taken_for_it() -> None:
    rng = random.Random(5)
    ids = [f"{rng.getrandbits(64):016x}" for _ in range(40_000)]
    orders = [f"4{rng.randrange(10**15):015}" for _ in range(2_000)]
    assert any(
        personal.CARD_NUMBER.fullmatch(i) and personal.luhn(i) for i in ids
    )  # by chance some have the digits of a card
    for column in (ids, orders, [f"{rng.random()}" for _ in range(2_000)], [f"train-{i:05}" for i in range(2_000)]):
        assert look([*column]) == {}
    for kind in ("phone", "email"):
        assert look([*NOT_FOUND[kind]]) == {}
    assert (
        look(["08712460324", "0171/2345678", "0123 456 789"]) == {}
    )  # of a phone without its country, too little is known
    assert look([]) == look([None]) == {}
