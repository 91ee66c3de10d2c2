"""Files to build from: half of each is text, half cannot be compressed; a seed gives the same again."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

PER_DIRECTORY = 100
PIECE = 1 << 16
_WORDS = ("stage", "layer", "digest", "the", "of", "return", "    ", "\n", "0x1f", "path", "build", "=", "()")


def fill(path: Path, files: int, total_bytes: int, seed: str) -> None:
    """Make `files` files of `total_bytes` together, a hundred in a directory."""
    chosen = random.Random(seed)  # noqa: S311
    text = " ".join(chosen.choices(_WORDS, k=PIECE)).encode()
    size = max(1, total_bytes // files)
    for number in range(files):
        folder = path / f"d{number // PER_DIRECTORY:04}"
        if number % PER_DIRECTORY == 0:
            folder.mkdir(parents=True)
        with (folder / f"f{number:06}").open("wb") as file:
            left = size
            while left > 0:
                piece = min(left, PIECE)
                begin = chosen.randrange(len(text) - piece)
                file.write(text[begin : begin + piece - piece // 2])
                file.write(chosen.randbytes(piece // 2))
                left -= piece


def context(path: Path, dockerfile: str) -> Path:
    """An empty context with a Dockerfile."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    (path / "Dockerfile").write_text(dockerfile)
    return path
