"""`--provenance` and `--attest`, as users of buildx write them."""

from __future__ import annotations

import pytest

from arkwright.cli.attest_options import Provenance, provenance_wanted
from arkwright.diagnostics.errors import ArkwrightError


def wanted(attest: tuple[str, ...] = (), provenance: tuple[str, ...] = ()) -> Provenance:
    return provenance_wanted({"attest": attest, "provenance": provenance})


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ((), Provenance("min")),
        (("true",), Provenance("min")),
        (("false",), Provenance("none")),
        (("0",), Provenance("none")),
        (("max",), Provenance("max")),
        (("mode=max",), Provenance("max")),
        (("mode=max,version=v1", "mode=min"), Provenance("min")),
        (("mode=max,builder-id=https://ci.example/7",), Provenance("max", "https://ci.example/7")),
        (("mode=max,inline-only=false",), Provenance("max")),
        (("disabled=true",), Provenance("none")),
        (("disabled",), Provenance("none")),
    ],
)
def test_provenance(provenance: tuple[str, ...], expected: Provenance) -> None:
    assert wanted(provenance=provenance) == expected


def test_attest() -> None:
    assert wanted(("type=provenance,mode=max",)) == Provenance("max")
    assert wanted(("type=provenance,disabled=true",)) == Provenance("none")
    assert wanted(("type=sbom,disabled=true",)) == Provenance("min")
    assert wanted(("type=provenance,mode=min",), ("mode=max",)) == Provenance("max")


@pytest.mark.parametrize(
    ("attest", "provenance", "code"),
    [
        ("type=sbom", "", "not-built-yet"),
        ("type=provenance,inline", "", "not-built-yet"),
        ("type=provenance,mode=max,inline-only=true", "", "not-built-yet"),
        ("type=vuln", "", "invalid-option-value"),
        ("mode=max", "", "invalid-option-value"),
        ("", "mode=most", "invalid-option-value"),
        ("", "mode=max,version=v0.2", "invalid-option-value"),
        ("", "perhaps", "invalid-option-value"),
        ("", "mode=max,inline", "not-built-yet"),
    ],
)
def test_what_is_refused(attest: str, provenance: str, code: str) -> None:
    with pytest.raises(ArkwrightError) as caught:
        wanted((attest,) if attest else (), (provenance,) if provenance else ())
    assert caught.value.code == code
