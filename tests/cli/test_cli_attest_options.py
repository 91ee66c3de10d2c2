"""`--provenance` and `--attest`, as users of buildx write them."""

from __future__ import annotations

import pytest

from arkwright.build.request import Attest
from arkwright.cli.attest_options import Provenance, attest_wanted, provenance_wanted
from arkwright.diagnostics.errors import ArkwrightError


def wanted(attest: tuple[str, ...] = (), provenance: tuple[str, ...] = ()) -> Provenance:
    return provenance_wanted({"attest": attest, "provenance": provenance})


def attached(
    attest: tuple[str, ...] = (), provenance: tuple[str, ...] = (), sbom: tuple[str, ...] = ()
) -> Attest:
    return attest_wanted({"attest": attest, "provenance": provenance, "sbom": sbom})


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ((), Provenance("min")),
        (("true",), Provenance("min", attach=True)),
        (("false",), Provenance("none")),
        (("0",), Provenance("none")),
        (("max",), Provenance("max", attach=True)),
        (("mode=max",), Provenance("max", attach=True)),
        (("mode=max,version=v1", "mode=min"), Provenance("min", attach=True)),
        (
            ("mode=max,builder-id=https://ci.example/7",),
            Provenance("max", "https://ci.example/7", attach=True),
        ),
        (("mode=max,inline-only=false",), Provenance("max", attach=True)),
        (("disabled=true",), Provenance("none")),
        (("disabled",), Provenance("none")),
    ],
)
def test_provenance(provenance: tuple[str, ...], expected: Provenance) -> None:
    assert wanted(provenance=provenance) == expected


def test_attest() -> None:
    assert wanted(("type=provenance,mode=max",)) == Provenance("max", attach=True)
    assert wanted(("type=provenance,disabled=true",)) == Provenance("none")
    assert wanted(("type=sbom,disabled=true",)) == Provenance("min")
    assert wanted(("type=provenance,mode=min",), ("mode=max",)) == Provenance("max", attach=True)


def test_what_is_attached() -> None:
    assert attached() == Attest()
    assert attached(provenance=("false",)) == Attest()
    assert attached(provenance=("mode=max",)) == Attest(provenance=True)
    assert attached(sbom=("true",)) == attached(("type=sbom",)) == Attest(sbom=True)
    assert attached(sbom=("false",)) == attached(("type=sbom",), sbom=("false",)) == Attest()
    assert (
        attached(("inline",))
        == attached(("type=provenance,inline=true",))
        == Attest(provenance=True, inline=True)
    )
    assert attached(("type=sbom,inline", "type=provenance")) == Attest(
        provenance=True, sbom=True, inline=True
    )
    assert attached(("type=provenance,inline-only=true",)) == Attest(provenance=True)
    assert attached(("inline",), ("mode=max",)) == Attest(provenance=True, inline=True)
    made = Attest(sbom=True, generator="scanner", parameters={"select": "all"})
    assert attached(("type=sbom,generator=scanner,SELECT=all",)) == made
    assert attached(sbom=("generator=scanner,select=all",)) == made
    assert attached(("type=sbom,generator=scanner,disabled",)) == Attest()


@pytest.mark.parametrize(
    ("attest", "provenance", "code"),
    [
        ("type=vuln", "", "invalid-option-value"),
        ("mode=max", "", "invalid-option-value"),
        ("", "mode=most", "invalid-option-value"),
        ("", "mode=max,version=v0.2", "invalid-option-value"),
        ("", "perhaps", "invalid-option-value"),
    ],
)
def test_what_is_refused(attest: str, provenance: str, code: str) -> None:
    with pytest.raises(ArkwrightError) as caught:
        wanted((attest,) if attest else (), (provenance,) if provenance else ())
    assert caught.value.code == code
