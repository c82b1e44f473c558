"""Spoken digits: a row has the sound's own samples, splits are as the protocols say, a slice trains and predicts."""

from __future__ import annotations

import io
import math
import tarfile
import wave
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import SparkSession

from bench.recipes import held_out
from etl.run import Built, etl
from penstock import cli
from penstock.console import Console
from penstock.recipe import Recipe, find
from recipes.spoken_digits.dataset import SPEAKERS
from recipes.spoken_digits.model import NUM_MELS, NUM_WAVES, augment, config, log_mel, played, smoothing
from tests.conftest import SHARED_DATA
from tests.recipes.resuming import train_and_resume
from train.random import drawing, row_keys

RECIPE = find("spoken_digits")


def wav(samples: npt.NDArray[np.int16], rate: int = 8000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((channels, 2, rate, 0, "NONE", ""))
        sound.writeframes(samples.tobytes())
    return file.getvalue()


def tone(hz: float, seconds: float, loudness: float = 8000.0) -> npt.NDArray[np.int16]:
    at = np.arange(round(8000 * seconds)) / 8000
    return (loudness * np.sin(2 * math.pi * hz * at)).astype(np.int16)


def tones(speakers: int, takes: int) -> dict[str, bytes]:
    """Each digit is a tone of its own, each speaker's a little higher than the one's before."""
    return {
        f"{digit}_{speaker}_{i}.wav": wav(tone(200 + 300 * digit + 20 * j + i, 0.1 + 0.01 * i))
        for j, speaker in enumerate(SPEAKERS[:speakers])
        for digit in range(10)
        for i in range(takes)
    }


def packed(files: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "recordings.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"recordings/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def build(recipe: Recipe, raw: Path, out: Path) -> Built:
    return etl(recipe, str(raw), str(out), Console())


def rows(out: Path, built: Built) -> dict[str, dict[str, Any]]:
    found = pq.read_table(out / built.card.data).to_pylist()
    return {row["id"]: row | {"samples": np.frombuffer(row["samples"], "<i2")} for row in found}


def test_a_row_is_the_first_second_and_other_sounds_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    short, odd, long = tone(300, 0.8), tone(300, 1)[: 0x12C4 // 2], tone(1000, 1.5)  # the bytes C4 12 are no text
    bad = {
        "1_theo_0.wav": wav(short, rate=16_000),
        "1_theo_1.wav": wav(short, channels=2),
        "1_theo_2.wav": wav(short) + b"LIST\4\0\0\0INFO",
        "theo_3.wav": wav(short),
        "1_theo_4.wav": wav(short)[:-10],
    }
    good = {"3_theo_5.wav": wav(short), "4_theo_4.wav": wav(long), "5_theo_0.wav": wav(odd), **tones(3, 20)}
    built = build(RECIPE, packed(good | bad, tmp_path / "raw"), tmp_path / "out")
    assert built.card.counts["clean"] == len(good)
    assert built.clean.rules == {"malformed": 1, "format": 2, "length": 1, "name": 1}
    found = rows(tmp_path / "out", built)
    for name, samples in {"3_theo_5": short, "4_theo_4": long, "5_theo_0": odd}.items():
        expected = np.zeros(8000, np.int16)
        expected[: len(samples)] = samples[:8000]
        assert (found[name]["samples"] == expected).all()
    assert (found["4_theo_4"]["split"], found["4_theo_4"]["digit"]) == ("test", 4)
    assert found["3_theo_5"]["split"] != "test"


def test_a_slice_trains_goes_on_and_predicts(spark: SparkSession, tmp_path: Path) -> None:
    built = build(RECIPE, packed(tones(2, 12), tmp_path / "raw"), tmp_path / "out")
    run, predictions = tmp_path / "run", tmp_path / "predictions.parquet"
    train_and_resume("spoken_digits", tmp_path / "out", run)
    assert cli.main(["predict", str(run), "--data", str(tmp_path / "out"), "--out", str(predictions)]) == 0
    assert pq.read_table(predictions).num_rows == built.card.counts["built"] == 240
    # Without labels, whatever the recordings are called.
    new, scored = tmp_path / "new", tmp_path / "scored.parquet"
    raw = packed({"unknown.wav": wav(tone(440, 0.5)), "7.wav": wav(tone(880, 2.0))}, tmp_path / "new_raw")
    etl(RECIPE, str(raw), str(new), Console(), frozen=built.card, labelled=False)
    assert cli.main(["predict", str(run), "--data", str(new), "--out", str(scored)]) == 0
    assert {row["id"] for row in pq.read_table(scored).to_pylist()} == {"unknown", "7"}


def test_the_recordings_are_what_their_source_says(spark: SparkSession, tmp_path: Path) -> None:
    raw = SHARED_DATA / "spoken_digits"
    if not raw.is_dir():
        pytest.skip("the Free Spoken Digit Dataset is not on this machine (expected in ../shared/data/spoken_digits)")
    sounds = {}
    with tarfile.open(raw / "recordings.tar.gz") as tar:
        for member in tar:
            if file := tar.extractfile(member):
                with wave.open(file) as sound:
                    sounds[member.name.split("/")[-1][:-4]] = sound.readframes(8000)
    built = build(RECIPE, raw, tmp_path / "out")
    assert built.card.counts == {"raw": 3000, "quarantined": 0, "clean": 3000, "duplicates": 0, "built": 3000}
    found = rows(tmp_path / "out", built)
    assert all(row["samples"].tobytes() == sounds[name].ljust(16_000, b"\0") for name, row in found.items())
    assert all(name.startswith(f"{row['digit']}_") for name, row in found.items())
    test = [name for name, row in found.items() if row["split"] == "test"]
    assert Counter(name.split("_")[2] for name in test) == {str(i): 60 for i in range(5)}
    by_speaker = rows(tmp_path / "held", build(held_out(RECIPE, tmp_path, "yweweler"), raw, tmp_path / "held"))
    splits = Counter((name.split("_")[1], row["split"]) for name, row in by_speaker.items())
    others = {(other, "train"): 500 for other in SPEAKERS[1:5]}
    assert splits == {("yweweler", "test"): 500, ("george", "val"): 500, **others}


def test_a_tone_is_where_its_mel_band_is_however_loud() -> None:
    sounds = [tone(hz, 0.9, loudness) for hz in (300, 1000, 3000) for loudness in (500.0, 30_000.0)]
    spectra = log_mel(torch.tensor(np.stack([np.pad(sound, (0, 8000 - len(sound))) for sound in sounds])))
    assert spectra.shape == (6, 1, 61, NUM_MELS)
    mels = [2595 * math.log10(1 + hz / 700) for hz in (60, 300, 1000, 3000, 4000)]
    bands = [(mel - mels[0]) / (mels[-1] - mels[0]) * (NUM_MELS + 1) - 1 for mel in mels[1:4]]
    for i, band in enumerate(bands):
        quiet, loud = spectra[2 * i, 0], spectra[2 * i + 1, 0]
        assert int(loud[20].argmax()) == pytest.approx(band, abs=0.6)
        assert float(loud.max()) == pytest.approx(0, abs=0.2)  # a tone's peak is smoothed too
        assert torch.allclose(loud[-1], torch.tensor(-1.0), atol=1e-4)  # silence
        assert torch.allclose(quiet, loud, atol=0.05)  # but for how they are rounded


def test_slow_waves_over_the_mels_stay_and_fast_ones_go() -> None:
    mels = torch.arange(NUM_MELS) + 0.5
    waves = torch.cos(math.pi / NUM_MELS * torch.outer(torch.arange(NUM_MELS), mels))  # (waves, mels)
    smoothed = waves @ smoothing(torch.device("cpu"))
    torch.testing.assert_close(smoothed[:NUM_WAVES], waves[:NUM_WAVES], rtol=0, atol=1e-5)
    torch.testing.assert_close(smoothed[NUM_WAVES:], torch.zeros_like(waves[NUM_WAVES:]), rtol=0, atol=1e-5)


def test_a_recording_played_faster_is_higher_and_shorter() -> None:
    sound = torch.tensor(tone(500, 1))[None]
    faster, slower = played(sound.expand(2, -1), torch.tensor([[1.25], [0.8]]))
    assert torch.allclose(faster[:6300], torch.tensor(tone(625, 1))[:6300].float(), atol=800)
    assert not faster[6401:].any()
    assert torch.allclose(slower, torch.tensor(tone(400, 1)).float(), atol=800)
    assert torch.allclose(played(sound, torch.ones(1, 1)), sound.float(), atol=5)


def test_a_row_is_changed_whatever_the_others_are() -> None:
    samples = torch.from_numpy(np.stack([np.tile(tone(200 + 90 * i, 0.5), 2) for i in range(8)]))
    keys = row_keys(0, 0, torch.arange(8))
    whole = augment({"samples": samples}, config(), drawing(keys), 0.5)["log_mel"]
    part = augment({"samples": samples[5:7]}, config(), drawing(keys[5:7]), 0.5)["log_mel"]
    assert torch.allclose(whole[5:7], part, atol=1e-5)
    assert not torch.allclose(whole, log_mel(samples), atol=0.1)
