"""`pull` and `push`: how transfers are shown, and what is refused before anything is sent."""

from __future__ import annotations

import pytest

from arkwright.cli.transfer import shown
from arkwright.oci.descriptor import LAYER_GZIP, Descriptor

BLOB = Descriptor(media_type=LAYER_GZIP, digest="sha256:" + "a" * 64, size=10)


def test_a_transfer_is_shown_as_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("pull app:1", quiet=False) as progress:
        progress(BLOB, 5, 10)
        progress(BLOB, 10, 10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "#1 pull app:1\n#1 sha256:aaaaaaaaaaaa 5B / 10B\n#1 sha256:aaaaaaaaaaaa 10B / 10B done\n#1 DONE 0.0s\n\n"
    )


def test_a_quiet_transfer(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("pull app:1", quiet=True) as progress:
        progress(BLOB, 10, 10)
    assert capsys.readouterr() == ("", "")


def test_a_failed_transfer(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="torn"), shown("pull app:1", quiet=False):
        raise ValueError("torn")
    # What failed is told once, by whoever catches the error.
    assert capsys.readouterr().err == "#1 pull app:1\n#1 ERROR\n\n"


def test_conflicts_and_bad_names(run) -> None:
    result = run("pull", "--platform", "amd64", "--all-platforms", "app")
    assert (result.exit_code, result.stderr.split(":")[0]) == (2, "error[conflicting-options]")
    result = run("pull", "UPPER")
    assert (result.exit_code, result.stderr.split(":")[0]) == (1, "error[invalid-reference]")
    result = run("push", "not-here:1")
    assert (result.exit_code, result.stderr.split(":")[0]) == (1, "error[unknown-image]")
