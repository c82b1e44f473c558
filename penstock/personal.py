"""Personal data in text: what looks like it, how it is masked, and how a column that holds some is found out.

Arrow's regular expressions (RE2) pick the values that may hold some; Python looks at those alone, and checks digits.
What is found, and what is not:

    email   local part, @, and a domain of two labels or more, the last one of letters (a subset of RFC 5321)
    iban    a country of the registry of ISO 13616 with its length, check digits right mod 97; in groups or not
    card    14 to 19 digits of a payment network's range, the last one right by Luhn (ISO/IEC 7812-1); in groups or not
    ip      IPv4 in four decimals, IPv6; not where letters, digits or dots adjoin, so that v1.2.3.4 is none
    phone   + or 00 and a number of up to 15 digits (ITU-T E.164); a trunk 0 and 8 to 13 digits more; an area code in
            parentheses; the American 212-555-0123. Not: dates, prices, short codes, digits after a capital letter

Digits are those of ASCII. A name, an address or a birthday is not found: such columns are dropped or pseudonymised.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# By payment network, as the first digits say, with the lengths in use: 4 Visa, 5 and 6 Mastercard, Maestro, Discover
# and UnionPay, 2 Mastercard, 34 and 37 American Express, 30, 36, 38 and 39 Diners Club, 35 JCB.
CARD_NUMBER = re.compile(
    r"[456]\d{15,18}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3[0689]\d{12,17}|35\d{14,17}"
)
# Country and length. Source: SWIFT, "IBAN Registry", the registry of ISO 13616-1.
IBAN_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30",
    )
}
DATE = re.compile(  # at the beginning of what may be a phone number: 01.02.2011, 1-2-11
    r"(?:0?[1-9]|[12]\d|3[01])([./-])(?:0?[1-9]|1[0-2])\1(?:\d{4}|\d\d(?!\d|\1))"
)
THOUSANDS = re.compile(r"\+\d{1,3}(?:\.\d{3})+")
CODE = r"^[0-9A-Za-z]{13,34}$"  # a whole value that is one word, as long as a card number or an IBAN


@dataclass(frozen=True)
class Kind:
    """How one kind of personal data is found. `hint` (RE2) holds in every value in which `candidate` is found."""

    hint: str
    candidate: re.Pattern[str]
    checked: Callable[[str], int]  # of a candidate, how many characters from its first are personal data; 0: none

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        at = 0
        while match := self.candidate.search(text, at):
            length = self.checked(match.group())
            at = match.start() + (length or 1)  # what is none may hide the beginning of one
            if length:
                yield match.start(), at

    def masked(self, text: str, token: str) -> str:
        parts, at = [], 0
        for start, end in self.spans(text):
            parts += [text[at:start], token]
            at = end
        return "".join([*parts, text[at:]])


def luhn(digits: str) -> bool:
    """Source: ISO/IEC 7812-1, annex B; US patent 2,950,048 (Luhn, 1960)."""
    doubled = sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (doubled + sum(map(int, digits[-1::-2]))) % 10 == 0


def mod97(iban: str) -> bool:
    """Of letters and digits in capitals. Source: ISO 13616-1; ISO/IEC 7064, MOD 97-10."""
    return int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1


def _ends(candidate: str) -> Iterator[tuple[int, str]]:
    """Where each group of letters or digits ends, and all groups until there in one."""
    compact = ""
    for group in re.finditer("[0-9A-Za-z]+", candidate):
        compact += group.group()
        yield group.end(), compact


def _card(candidate: str) -> int:
    return max((end for end, number in _ends(candidate) if CARD_NUMBER.fullmatch(number) and luhn(number)), default=0)


def _iban(candidate: str) -> int:
    length = IBAN_LENGTHS.get(candidate[:2].upper())
    return max((end for end, iban in _ends(candidate) if len(iban) == length and mod97(iban.upper())), default=0)


def _ip(candidate: str) -> int:
    for text in (candidate, candidate.rstrip(".:")):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            continue
        return len(text) if re.search(r"\d", text) else 0  # Bad::Face is a name in many a language
    return 0


def _phone(candidate: str) -> int:
    """A number ends with the group that makes it long enough, so that a price behind it stays."""
    if DATE.match(candidate) or THOUSANDS.fullmatch(candidate):
        return 0
    enough = 11 if candidate.startswith(("+", "00")) else 10
    return next((end for end, digits in _ends(candidate) if len(digits) >= enough), len(candidate))


def _whole(candidate: str) -> int:
    return len(candidate)


INTERNATIONAL = r"(?<![\w+])\+[1-9](?:[ .\-/()]{0,2}[0-9]){6,14}(?![0-9])"
BRITISH_AREA = r"\(0[0-9]{1,5}\)[ \-]?[0-9](?:[ \-]?[0-9]){4,9}"
AMERICAN_AREA = r"\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[\-. ][0-9]{4}"
AREA_CODE = rf"(?<!\w)(?:{BRITISH_AREA}|{AMERICAN_AREA})(?![0-9])"
AMERICAN = r"(?<![\w.\-])(?:1-)?[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}(?![\w\-])"
# Not after a digit or a capital letter, but for a slash behind another number: else it is part of a date or an invoice.
ALONE = r"(?<![0-9A-Z+])(?<![0-9][.,\-])(?:(?<![0-9]/)|(?<=[0-9]{5}/))(?<![A-Z][#/\-])"
NATIONAL = ALONE + r"(?:00[1-9](?:[ .\-/()]{0,2}[0-9]){8,13}|0[1-9](?:[ .\-/()]?[0-9]){7,12})(?![0-9])"

# In the order in which they are masked: what is part of an earlier kind is none of a later one.
KINDS: Mapping[str, Kind] = {
    "email": Kind(
        hint=r"@[^\s@]*\.",
        candidate=re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:\w(?:[\w-]{0,61}\w)?\.)+[^\W\d_]{2,63}"),
        checked=_whole,
    ),
    "iban": Kind(
        hint=r"(?:^|[^0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11}",
        candidate=re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{2}[0-9]{2}(?:[ -]?[0-9A-Za-z]){11,30}(?![0-9A-Za-z])"),
        checked=_iban,
    ),
    "card": Kind(
        hint=r"(?:^|[^0-9A-Za-z.,]|(?:^|[^0-9])[.,])[0-9]{4}(?:[ -]?[0-9]){9}",
        candidate=re.compile(
            r"(?<![0-9A-Za-z])(?<![0-9][.,])[0-9]{4,19}(?:[ -][0-9]{3,15}){0,4}(?![0-9A-Za-z]|[.,][0-9])"
        ),
        checked=_card,
    ),
    "ip": Kind(
        hint=r"[0-9]\.[0-9]+\.[0-9]+\.[0-9]|:[0-9A-Fa-f]*:",
        candidate=re.compile(
            r"(?<![\w.:])(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w]|\.[0-9])|[0-9A-Fa-f:]{1,39}:[0-9A-Fa-f:.]{1,39}(?!\w))"
        ),
        checked=_ip,
    ),
    "phone": Kind(
        hint=r"[0+(][0-9](?:[ .\-/()]{0,2}[0-9]){5}|[0-9]{3}-[0-9]{3}-[0-9]{4}",
        candidate=re.compile("|".join([INTERNATIONAL, AREA_CODE, AMERICAN, NATIONAL])),
        checked=_phone,
    ),
}
# What is looked for where nothing is expected: less, so that ids and amounts are not taken for numbers of people.
LOOKED_FOR: Mapping[str, Kind] = {
    **{name: KINDS[name] for name in ("email", "iban", "card")},
    "phone": Kind(
        hint=r"\+[1-9](?:[ .\-/()]{0,2}[0-9]){6}|\([0-9]{2,6}\)[ \-]?[0-9]|[0-9]{3}-[0-9]{3}-[0-9]{4}",
        candidate=re.compile("|".join([INTERNATIONAL, AREA_CODE, AMERICAN])),
        checked=_phone,
    ),
}
NAMES = {"email": "an e-mail address", "iban": "an IBAN", "card": "a card number", "phone": "a phone number"}


def mask(values: pa.Array, kinds: Collection[str]) -> tuple[pa.Array, dict[str, pa.Array]]:
    """The texts with each find replaced by a token such as `<phone>`, and for each kind which texts it changed.

    Nulls stay null, and count as not changed.
    """
    changed = {}
    for name in (name for name in KINDS if name in kinds):
        candidates = pc.fill_null(pc.match_substring_regex(values, KINDS[name].hint), False)
        before = values.filter(candidates).to_pylist()
        after = [KINDS[name].masked(text, f"<{name}>") for text in before]
        differs = pa.array([old != new for old, new in zip(before, after, strict=True)], pa.bool_())
        values = pc.replace_with_mask(values, candidates, pa.array(after, values.type))
        changed[name] = pc.replace_with_mask(candidates, candidates, differs)
    return values, changed


def found(values: pa.Array | pa.ChunkedArray, kinds: Collection[str]) -> Counter[str]:
    """How many texts hold each kind, for `looks_personal`; those of whole codes apart, and how many codes there are."""
    kinds = [name for name in LOOKED_FOR if name in kinds]
    counted = values.value_counts()  # a text that comes often is looked at once
    texts, times = counted.field("values"), counted.field("counts")
    counts = Counter(code=pc.sum(times.filter(pc.match_substring_regex(texts, CODE))).as_py() or 0)
    is_candidate = pc.match_substring_regex(texts, "|".join(LOOKED_FOR[name].hint for name in kinds))
    texts, times = texts.filter(is_candidate), times.filter(is_candidate)
    for name in kinds:
        is_candidate = pc.match_substring_regex(texts, LOOKED_FOR[name].hint)
        for text, number in zip(
            texts.filter(is_candidate).to_pylist(), times.filter(is_candidate).to_pylist(), strict=True
        ):
            if any(True for _ in LOOKED_FOR[name].spans(text)):
                counts[f"{name} code" if re.match(CODE, text) else name] += number
    return counts


def looks_personal(counts: Mapping[str, int]) -> dict[str, int]:
    """For each kind the number of texts that hold it, where that is no chance.

    Of numbers that mean something else one in ten has Luhn's digit, of codes one in 97 IBAN's: a value that is nothing
    but letters and digits counts only if half of the column's do.
    """
    totals = {}
    for name in LOOKED_FOR:
        codes = counts.get(f"{name} code", 0)
        totals[name] = counts.get(name, 0) + (codes if 2 * codes >= counts.get("code", 0) else 0)
    return {name: total for name, total in totals.items() if total}
