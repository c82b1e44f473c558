"""What a recipe says about personal data: how a column is treated, and the key that pseudonyms are made with.

    private = {"name": Drop(), "customer": Pseudonymise(), "text": Mask("phone", "email")}

etl/privacy.py does it with Spark.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from penstock import personal, store
from penstock.errors import PenstockError, RecipeError, StorageError
from penstock.schema import Schema

KEY, KEY_FILE = "PENSTOCK_PSEUDONYM_KEY", "PENSTOCK_PSEUDONYM_KEY_FILE"
MIN_KEY_BYTES = 32  # RFC 2104, section 3: no shorter than the hash
BLOCK_BYTES = 64  # of SHA-256
FINGERPRINT_OF = b"penstock: fingerprint of a pseudonym key"

MEND_RECIPE = 'add "{name}": Mask({masks}) to the recipe\'s private, or "{name}": "why it is none" to its not_private'


@dataclass(frozen=True)
class Drop:
    """The column is not there any more."""


@dataclass(frozen=True)
class Pseudonymise:
    """The value becomes HMAC-SHA-256(key, value as text in UTF-8) in 64 hex digits; null stays null.

    Equal values have equal pseudonyms, in all columns and datasets of one key.
    Source: RFC 2104; FIPS 198-1.
    """


@dataclass(frozen=True, init=False)
class Mask:
    """Finds in a text become tokens, such as `<phone>`. Without kinds: all of penstock.personal.KINDS."""

    kinds: tuple[str, ...]

    def __init__(self, *kinds: str) -> None:
        if unknown := [kind for kind in kinds if kind not in personal.KINDS]:
            raise RecipeError(f"Mask: unknown kind {unknown[0]!r}; there are {', '.join(personal.KINDS)}")
        object.__setattr__(self, "kinds", tuple(kind for kind in personal.KINDS if kind in kinds or not kinds))


@dataclass(frozen=True)
class Derive:
    """The column is made, after all others are treated, by a Spark SQL expression over them: a key of masked text."""

    expression: str


Treatment = Drop | Pseudonymise | Mask | Derive


@dataclass(frozen=True)
class PseudonymKey:
    """A secret: it goes to executors as data, never into a plan, a message or a file."""

    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without telling anything of them."""
        return hmac.digest(self.secret, FINGERPRINT_OF, "sha256").hex()[:16]

    @property
    def pads(self) -> tuple[bytes, bytes]:
        """What HMAC puts before the text and before the inner hash. Who knows them can make pseudonyms.

        Source: RFC 2104, section 2: K XOR ipad, K XOR opad.
        """
        key = hashlib.sha256(self.secret).digest() if len(self.secret) > BLOCK_BYTES else self.secret
        key = key.ljust(BLOCK_BYTES, b"\0")
        return bytes(byte ^ 0x36 for byte in key), bytes(byte ^ 0x5C for byte in key)


def pseudonym_key(private: Mapping[str, Treatment], environ: Mapping[str, str] = os.environ) -> PseudonymKey | None:
    """The key, where a column is to be pseudonymised. Raises: PenstockError where there is none, or too short a one."""
    columns = [name for name, treatment in private.items() if isinstance(treatment, Pseudonymise)]
    if not columns:
        return None
    value, file = environ.get(KEY), environ.get(KEY_FILE)
    if bool(value) == bool(file):
        there = "both are" if value else "neither is"
        raise PenstockError(
            f"pseudonym key: column {columns[0]!r} needs a secret of {MIN_KEY_BYTES} bytes or more in {KEY}, or in the "
            f"file that {KEY_FILE} names; {there} set: set one of them (`openssl rand -hex 32` makes a secret)"
        )
    where = KEY if value else store.shown(str(file))
    secret = value.encode() if value else _file(str(file))
    if len(secret) < MIN_KEY_BYTES:
        raise PenstockError(
            f"pseudonym key: {where} has {len(secret)} bytes, expected {MIN_KEY_BYTES} or more; make another one, "
            f"such as `openssl rand -hex 32`"
        )
    return PseudonymKey(secret)


def _file(url: str) -> bytes:
    try:
        return store.read_bytes(store.absolute(url)).rstrip(b"\r\n")
    except (FileNotFoundError, StorageError) as error:
        raise PenstockError(
            f"pseudonym key: {KEY_FILE} names {store.shown(url)}, which cannot be read; mend it"
        ) from error


# Before publishing: what is not marked


def looked_for(schema: Schema, private: Mapping[str, Treatment], excepted: Collection[str]) -> dict[str, list[str]]:
    """For each column of strings the kinds that are looked for: none in pseudonyms and exceptions, no masked ones."""
    strings = [field.name for field in schema.fields if field.dtype == "string"]
    wanted = {name: not_masked(private.get(name)) for name in strings if name not in excepted}
    return {name: kinds for name, kinds in wanted.items() if kinds}


def not_masked(treatment: Treatment | None) -> list[str]:
    if isinstance(treatment, Pseudonymise):
        return []
    masked = treatment.kinds if isinstance(treatment, Mask) else ()
    return [kind for kind in personal.LOOKED_FOR if kind not in masked]


def check_unmarked(found: Mapping[str, Mapping[str, int]], mend: str = MEND_RECIPE) -> None:
    """Raises: RecipeError where a column holds what looks like personal data; no value is told."""
    said = []
    for name, counts in found.items():
        if kinds := personal.looks_personal(counts):
            numbers = " and ".join(f"{personal.NAMES[kind]} in {number:,} values" for kind, number in kinds.items())
            masks = ", ".join(f'"{kind}"' for kind in kinds)
            said.append(f"column {name!r} has what looks like {numbers}: {mend.format(name=name, masks=masks)}")
    if said:
        raise RecipeError(f"personal data: {'; '.join(said)}; nothing is published")
