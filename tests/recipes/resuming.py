"""What the end-to-end tests of recipes share: train, lose the last checkpoint, and go on to the same bits."""

from __future__ import annotations

from pathlib import Path

from penstock import cli


def train_and_resume(recipe: str, data: Path, out: Path, *options: str) -> None:
    """A run of four steps in `out`, which ends with the same bits where it goes on after the last checkpoint but one.

    That is its third step's, or an earlier one's where writing was slow: no step waits for it.
    """
    said = ["train", recipe, "--data", str(data), "--out", str(out), "--device", "cpu", "--steps", "4"]
    command = [*said, "--checkpoint-seconds", "0", *options]
    assert cli.main(command) == 0
    whole = {name: (out / name).read_bytes() for name in ("model.safetensors", "metrics.jsonl")}
    *earlier, last = sorted((out / "checkpoints").glob("step-*.pt"))
    assert earlier
    assert last.stem == "step-00000004"
    for lost in (last, out / "report.json", out / "model.safetensors"):
        lost.unlink()
    assert cli.main(command) == 0
    assert {name: (out / name).read_bytes() for name in whole} == whole
