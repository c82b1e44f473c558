"""The code that a Spark cluster needs, as one archive for `spark-submit --archives dist/penstock.zip#penstock`.

python -m cluster.dist [FILE]
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("penstock", "etl", "recipes")  # executors train nothing


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for file in sorted((ROOT / package).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(ROOT))
    return path


if __name__ == "__main__":
    print(write(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "dist" / "penstock.zip"))
