"""Verifications by the real program, and what they report."""

from __future__ import annotations

import json
import re
from typing import Any

from building import Builder

# A machine that does other things too builds three times.
TIMEOUT_S = 300


def verified(builder: Builder, *args: str, status: int = 0) -> dict[str, Any]:
    """`arkwright verify` with its report."""
    return _report(builder, "verify", *args, status=status)


def checked(builder: Builder, *args: str, status: int = 0) -> dict[str, Any]:
    """`arkwright check-reproducible` with its report."""
    return _report(builder, "check-reproducible", *args, status=status)


def refused(builder: Builder, *args: str, status: int = 3) -> list[str]:
    """The codes of a command's errors; those of a rebuild come first."""
    done = builder.run(*args, status=status, timeout_s=TIMEOUT_S)
    return codes(done.err)


def codes(text: str) -> list[str]:
    return re.findall(r"^error\[([a-z0-9-]+)\]", text, re.MULTILINE)


def files(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Files that differ, by path."""
    return {
        file["path"]: file
        for image in report.get("images", ())
        for layer in image.get("layers", ())
        for file in layer.get("files", ())
    }


def rules(file: dict[str, Any]) -> set[str]:
    return {cause["rule"] for cause in file.get("causes", ())}


def _report(builder: Builder, command: str, *args: str, status: int) -> dict[str, Any]:
    done = builder.run(command, "--json", "--progress", "none", *args, status=status, timeout_s=TIMEOUT_S)
    found: dict[str, Any] = json.loads(done.out)
    found["error"] = (codes(done.err) or [""])[0]
    return found
