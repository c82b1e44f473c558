"""What is marked as personal is treated before it is written, the key stays secret, and what is not marked is found."""

from __future__ import annotations

import base64
import hmac
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, Observation, SparkSession

from etl import privacy
from penstock import card as cards
from penstock.card import Card
from penstock.errors import PenstockError, RecipeError
from penstock.privacy import KEY, KEY_FILE, Derive, Drop, Mask, Pseudonymise, PseudonymKey
from tests.etl.conftest import Run, leftovers, write_recipe

SECRET = b"a secret of more than 32 bytes, for tests"

# RFC 4231, section 4: key, data, HMAC-SHA-256. Case 5 is truncated to 128 bits there.
VECTORS = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        bytes(range(1, 26)),
        b"\xcd" * 50,
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    ),
    (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be "
        b"hashed before being used by the HMAC algorithm.",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]

RECIPE = '''
"""Customers and what they wrote: name,customer,text,city."""
from etl.read import csv
from penstock.privacy import Derive, Drop, Mask, Pseudonymise
from penstock.recipe import Rule, Split
from penstock.schema import Field, Schema

schema = Schema((Field("customer", "string"), Field("text", "string"), Field("city", "string")), key="customer")
split = Split({"train": 0.5, "test": 0.5})
private = {"name": Drop(), "customer": Pseudonymise(), "text": Mask("phone", "email")}
rules = (Rule("city_known", "city in ('Rom', 'Bern')", "the city must be Rom or Bern"),)
max_quarantined = 0.9

def read(spark, raw_url, labelled):
    return csv(spark, raw_url, {"name": "string", "customer": "int", "text": "string", "city": "string"})

def clean(df):
    return df
'''
RAW = """Ada Byron,17850,call 07700900123 or 020 7946 0018,Rom
Bob Hope,17851,hi bob@example.org,Bern
Cy Young,17850,no number,Rom
Dot Com,x99,see dot@example.org,Bern
Eve Online,17852,ring 07700900456,Paris
"""
PERSONAL = ["Byron", "Hope", "Young", "17850", "17851", "07700900123", "7946 0018", "bob@"]
REFUSED = ["Dot", "Eve", "x99", "dot@", "07700900456"]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY, SECRET.decode())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "shop.csv").write_text(RAW)
    return write_recipe(tmp_path / "shop", RECIPE)


def protect(df: DataFrame, key: bytes = SECRET, **private: Drop | Pseudonymise | Mask | Derive) -> DataFrame:
    return privacy.protect(df, private, PseudonymKey(key), Observation())


def rows(out: Path, card: Card) -> list[dict[str, str]]:
    return sorted(pq.read_table(out / card.data).drop("split").to_pylist(), key=lambda row: row["city"])


def content(folder: Path, without: str = "quarantine") -> bytes:
    """All bytes below a folder, Parquet decoded too, but for those in folders of a name."""
    files = [path for path in folder.rglob("*") if path.is_file() and without not in path.parts]
    decoded = [str(pq.ParquetFile(path).read().to_pylist()).encode() for path in files if path.suffix == ".parquet"]
    return b"\n".join([*(path.read_bytes() for path in files), *decoded])


@pytest.mark.parametrize(("key", "data", "expected"), VECTORS)
def test_pseudonyms_are_hmac_sha_256(spark: SparkSession, key: bytes, data: bytes, expected: str) -> None:
    df = spark.createDataFrame(pa.table({"value": [data]}))
    [row] = protect(df, key, value=Pseudonymise()).collect()
    assert row["value"].startswith(expected)


@given(st.lists(st.text() | st.none(), max_size=20), st.binary(min_size=32, max_size=150))
@settings(max_examples=5)
def test_pseudonyms_are_those_of_python(spark: SparkSession, values: list[str | None], key: bytes) -> None:
    table = pa.table({"i": pa.array(range(len(values)), pa.int64()), "value": pa.array(values, pa.string())})
    found = protect(spark.createDataFrame(table), key, i=Pseudonymise(), value=Pseudonymise()).collect()
    expected = [
        tuple(None if v is None else hmac.digest(key, str(v).encode(), "sha256").hex() for v in (i, value))
        for i, value in enumerate(values)
    ]
    assert [tuple(row) for row in found] == expected


def test_text_is_masked_and_other_columns_stay(spark: SparkSession) -> None:
    texts = ["a@b.co", None, "call +44 20 7946 0018 or a@b.co", "nothing"]
    photos = [b"\xff\xd8", None, b"", b"x"]
    df = spark.createDataFrame(pa.table({"n": [1, 2, 3, 4], "text": texts, "photo": photos, "other": texts}))
    counted = Observation()
    private = {"text": Mask("phone", "email"), "id": Derive("upper(text)")}
    found = privacy.protect(df, private, None, counted).collect()
    masked = ["<email>", None, "call <phone> or <email>", "nothing"]
    ids = [text and text.upper() for text in masked]
    assert [tuple(row) for row in found] == list(zip([1, 2, 3, 4], masked, photos, texts, ids, strict=True))
    assert privacy.done(private, None, counted) == {
        "text": {"kind": "mask", "values": {"email": 2, "phone": 1}},
        "id": {"kind": "derive", "expression": "upper(text)"},
    }


@pytest.mark.slow
def test_neither_plans_nor_the_event_log_tell_the_key(tmp_path: Path) -> None:
    """A process of its own, since a session logs its events or does not; everything it writes or says is looked at."""
    code = """
from pyspark.sql import Observation
from etl import privacy
from etl.spark import session
from penstock.privacy import Pseudonymise, pseudonym_key
private = {"customer": Pseudonymise()}
key = pseudonym_key(private)
with session("test", "local[1]") as spark:
    df = privacy.protect(spark.range(3).selectExpr("string(id) customer"), private, key, Observation())
    for mode in ("simple", "extended", "codegen", "cost", "formatted"):
        df.explain(mode=mode)
    print(df.collect(), df, key, key.fingerprint)
"""
    logs = tmp_path / "events"
    logs.mkdir()
    (tmp_path / "spark-defaults.conf").write_text(
        f"spark.eventLog.enabled true\nspark.eventLog.dir file://{logs}\nspark.eventLog.compress false\n"
    )
    environment = {**os.environ, "SPARK_CONF_DIR": str(tmp_path), KEY: SECRET.decode()}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    key, events = PseudonymKey(SECRET), content(logs)
    for event in (b"SparkListenerSQLExecutionStart", b"SparkListenerEnvironmentUpdate", b"BroadcastNestedLoopJoin"):
        assert event in events
    assert "LocalRelation" in done.stdout
    assert key.fingerprint in done.stdout
    said = events + done.stdout.encode() + done.stderr.encode()
    for secret in (SECRET, *key.pads):
        for part in (secret[:16], secret[16:32]):
            spelled = ["".join(f"{byte:02x}" for byte in part), " ".join(f"{byte:02x}" for byte in part)]
            forms = [form.encode() for text in spelled for form in (text, text.upper())]
            forms += [part, str(list(part))[1:-1].encode(), base64.b64encode(part)[:20]]
            assert [form for form in forms if form in said] == []


def test_a_key_in_sparks_configuration_is_refused() -> None:
    privacy.check_configuration(["spark.master", f"spark.yarn.appMasterEnv.{KEY_FILE}"])
    with pytest.raises(
        RecipeError, match=r"Spark's configuration has spark\.executorEnv\.\w+_KEY, which logs and web pages"
    ):
        privacy.check_configuration(["spark.master", f"spark.executorEnv.{KEY}"])


@pytest.mark.parametrize("keep_clean", [False, True])
def test_nothing_of_kept_rows_lies_on_disk_unprotected(run: Run, shop: Path, tmp_path: Path, keep_clean: bool) -> None:
    out = tmp_path / "out"
    built = run(tmp_path / "raw", out, recipe=shop, keep_clean=keep_clean)
    assert built.card.counts == {"raw": 5, "quarantined": 2, "clean": 3, "duplicates": 1, "built": 2}
    pseudonyms = [hmac.digest(SECRET, name, "sha256").hex() for name in (b"17850", b"17851")]
    assert rows(out, built.card) == [
        {"customer": pseudonyms[1], "text": "hi <email>", "city": "Bern"},
        {"customer": pseudonyms[0], "text": "call <phone> or <phone>", "city": "Rom"},
    ]
    written = content(out).decode(errors="replace")
    assert pseudonyms[0] in written
    assert [word for word in PERSONAL + REFUSED if word in written] == []
    assert (
        built.card.private
        == built.clean.private
        == {
            "name": {"kind": "drop"},
            "customer": {"kind": "pseudonymise", "key": PseudonymKey(SECRET).fingerprint, "values": 3},
            "text": {"kind": "mask", "values": {"email": 1, "phone": 1}},
        }
    )
    assert run(tmp_path / "raw", out, recipe=shop, keep_clean=keep_clean).reused
    (out / "cards" / f"{built.card.version}.json").unlink()
    again = run(tmp_path / "raw", out, recipe=shop, keep_clean=keep_clean)  # the clean card is there already
    assert again.card.private == built.card.private
    assert again.card.splits == built.card.splits


def test_another_key_is_another_version_and_other_pseudonyms(
    run: Run, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    first = run(raw, out, recipe=shop)
    (tmp_path / "key").write_bytes(SECRET + b"\n")
    monkeypatch.delenv(KEY)
    monkeypatch.setenv(KEY_FILE, str(tmp_path / "key"))
    assert run(raw, out, recipe=shop).reused
    (tmp_path / "key").write_bytes(SECRET[::-1])
    other = run(raw, out, recipe=shop)
    assert other.card.version != first.card.version
    assert not {row["customer"] for row in rows(out, first.card)} & {row["customer"] for row in rows(out, other.card)}
    assert run(raw, tmp_path / "scored", recipe=shop, frozen=first.card)  # only the key is pseudonymised
    feature = RECIPE.replace('key="customer"', 'key="text"')
    trained = run(raw, out, recipe=write_recipe(tmp_path / "feature", feature)).card
    (tmp_path / "key").write_bytes(SECRET)
    with pytest.raises(RecipeError, match=r"--frozen: column 'customer' of version \w+ has pseudonyms of the key with"):
        run(raw, tmp_path / "scored", recipe=tmp_path / "feature", frozen=trained)
    monkeypatch.delenv(KEY_FILE)
    with pytest.raises(PenstockError, match="pseudonym key: column 'customer' needs a secret"):
        run(raw, out, recipe=shop)


def test_quarantine_may_keep_reasons_without_records(run: Run, shop: Path, tmp_path: Path) -> None:
    (shop / "dataset.py").write_text(RECIPE + "quarantine_records = False\n")
    out = tmp_path / "out"
    built = run(tmp_path / "raw", out, recipe=shop)
    refused = sorted(pq.read_table(out / str(built.clean.quarantine)).to_pylist(), key=lambda row: row["line"])
    assert [(row["file"], row["line"], row["record"], row["rules"], row["reasons"]) for row in refused] == [
        ("shop.csv", 4, None, ["malformed"], ["customer must be int, found something else"]),
        ("shop.csv", 5, None, ["city_known"], ["the city must be Rom or Bern"]),
    ]
    written = content(out, without="").decode(errors="replace")
    assert [word for word in PERSONAL + REFUSED if word in written] == []
    strict = write_recipe(tmp_path / "strict", RECIPE.replace("0.9", "0.1") + "quarantine_records = False\n")
    with pytest.raises(
        PenstockError, match=r"2 of 5 rows .* line 4: customer must be int, found something else"
    ) as raised:
        run(tmp_path / "raw", out, recipe=strict)
    assert not any(word in str(raised.value) for word in REFUSED)


UNMARKED = RECIPE.replace('"text": Mask("phone", "email")', "").replace('"customer": Pseudonymise(),', "")
UNMARKED = UNMARKED.replace('"customer": "int"', '"customer": "string"')
HOLDS = "Ada,1,+44 20 7946 0018,Rom\nBob,2,a@b.co,Rom\nCy,3,c@d.org +44 20 7946 0019,Bern\n"


def test_what_looks_personal_and_is_not_marked_is_not_published(run: Run, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "p.csv").write_text(HOLDS)
    message = (
        r"^personal data: column 'text' has what looks like an e-mail address in 2 values and a phone number in 2 "
        r'values: add "text": Mask\("email", "phone"\) to the recipe\'s private, or "text": "why it is none" to its '
        r"not_private; "
        r"nothing is published$"
    )
    with pytest.raises(RecipeError, match=message):
        run(tmp_path / "raw", tmp_path / "out", recipe=write_recipe(tmp_path / "r", UNMARKED))
    assert leftovers(tmp_path / "out") == []
    half = UNMARKED.replace("private = {", 'private = {"text": Mask("phone"), ')
    with pytest.raises(RecipeError, match="column 'text' has what looks like an e-mail address in 2 values: add"):
        run(tmp_path / "raw", tmp_path / "out", recipe=write_recipe(tmp_path / "half", half))
    said = UNMARKED + 'not_private = {"text": "numbers of the company itself"}\n'
    built = run(tmp_path / "raw", tmp_path / "out", recipe=write_recipe(tmp_path / "s", said))
    assert built.card.counts["built"] == 3


def test_kept_clean_rows_are_looked_at_in_all_their_columns(run: Run, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "p.csv").write_text("Ada a@b.co,1,x,Rom\n")
    recipe = write_recipe(tmp_path / "r", UNMARKED.replace('"name": Drop(),', ""))
    run(tmp_path / "raw", tmp_path / "direct", recipe=recipe)  # `name` is no field and is not written
    with pytest.raises(RecipeError, match="column 'name' has what looks like an e-mail address in 1 values"):
        run(tmp_path / "raw", tmp_path / "kept", recipe=recipe, keep_clean=True)
    assert leftovers(tmp_path / "kept") == []


@pytest.mark.parametrize(
    ("private", "message"),
    [
        ('{"nmae": Drop()}', r"private: clean\(\) gives no column 'nmae', there are name, customer, text, city; mend"),
        ('{"customer": Mask()}', "private: Mask cannot treat column 'customer', which is int; cast it to a string"),
        ('{"city": Drop()}', "recipe 'wrong': private: 'city' is to be dropped, but is a field of the schema"),
        ('{"city": Derive("nothing")}', "asks Spark for what it cannot do.*nothing"),
        ('{"city": "drop"}', r"private must be a dict of column -> Drop\(\), Pseudonymise\(\), Mask"),
        ('{}\nnot_private = {"city": ""}', "not_private must be a dict of column -> why it is no personal data"),
        ("{}\nquarantine_records = 0", "quarantine_records must be True or False, is 0"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_said(run: Run, shop: Path, private: str, message: str) -> None:
    text = re.sub("private = .*", f"private = {private}", RECIPE, count=1)
    with pytest.raises(RecipeError, match=message):
        run(shop.parent / "raw", shop.parent / "out", recipe=write_recipe(shop.parent / "wrong", text))


def test_reasons_without_values_keep_what_was_expected(spark: SparkSession) -> None:
    reasons = [None, "age must be int, found 'found'; b must be int,\n found 'x'", "odd"]
    df = privacy.without_values(spark.createDataFrame(pa.table({"_why": reasons})))
    told = [None, "age must be int, found something else", "the record cannot be read"]
    assert [row["_why"] for row in df.collect()] == told


def test_a_person_is_told_what_was_done(shop: Path, spark: SparkSession, tmp_path: Path) -> None:
    from etl.run import main

    said = io.StringIO()
    with redirect_stdout(said):
        assert main([str(shop), "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 0
    assert "Personal data: column 'text' masked: email in 1 values, phone in 1 values" in said.getvalue()
    assert "Personal data: column 'name' dropped" in said.getvalue()
    card = json.loads(next((tmp_path / "out" / "cards").iterdir()).read_text())
    assert card["private"]["customer"]["values"] == 3
    assert SECRET.decode() not in said.getvalue()
    assert cards.load(str(tmp_path / "out")).private["name"] == {"kind": "drop"}
