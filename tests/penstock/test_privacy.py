"""The key of pseudonyms: where it comes from, and that nothing tells it."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import PenstockError, RecipeError
from penstock.privacy import KEY, KEY_FILE, Drop, Mask, Pseudonymise, PseudonymKey, pseudonym_key

SECRET = "0123456789abcdef0123456789abcdef"
PRIVATE = {"name": Drop(), "customer": Pseudonymise()}


def test_the_key_comes_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    for environ in ({KEY: SECRET}, {KEY_FILE: str(file)}, {KEY_FILE: f"file://{file}", KEY: ""}):
        key = pseudonym_key(PRIVATE, environ)
        assert key is not None
        assert key.secret == SECRET.encode()
    assert pseudonym_key({"name": Drop(), "text": Mask()}, {}) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "column 'customer' needs a secret of 32 bytes or more in PENSTOCK_PSEUDONYM_KEY, .* neither is set"),
        ({KEY: SECRET, KEY_FILE: "/a"}, "both are set: set one of them"),
        ({KEY: SECRET[:31]}, "pseudonym key: PENSTOCK_PSEUDONYM_KEY has 31 bytes, expected 32 or more"),
        ({KEY_FILE: "/nowhere/key"}, "PENSTOCK_PSEUDONYM_KEY_FILE names /nowhere/key, which cannot be read"),
        ({KEY_FILE: "/"}, "PENSTOCK_PSEUDONYM_KEY_FILE names /, which cannot be read"),
        ({KEY_FILE: "short"}, "short has 3 bytes, expected 32 or more"),
    ],
)
def test_a_key_that_cannot_be_used_is_said_without_telling_it(
    environ: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("abc\r\n")
    with pytest.raises(PenstockError, match=message) as raised:
        pseudonym_key(PRIVATE, environ)
    assert SECRET[:8] not in str(raised.value)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=100))
def test_the_pads_are_those_of_hmac(secret: bytes, text: bytes) -> None:
    inner, outer = PseudonymKey(secret).pads
    digest = hashlib.sha256(outer + hashlib.sha256(inner + text).digest()).digest()
    assert digest == hmac.digest(secret, text, "sha256")


def test_a_fingerprint_tells_keys_apart_and_nothing_else() -> None:
    key, other = PseudonymKey(SECRET.encode()), PseudonymKey(SECRET.upper().encode())
    assert key.fingerprint == PseudonymKey(SECRET.encode()).fingerprint != other.fingerprint
    assert key.fingerprint not in hashlib.sha256(key.secret).hexdigest()  # who guesses keys needs each one's HMAC
    assert "0123" not in repr(key)


def test_a_mask_has_kinds_in_one_order() -> None:
    assert Mask("phone", "email") == Mask("email", "phone") != Mask()
    assert Mask().kinds == ("email", "iban", "card", "ip", "phone")
    with pytest.raises(RecipeError, match="Mask: unknown kind 'fax'; there are email, iban, card, ip, phone"):
        Mask("email", "fax")
