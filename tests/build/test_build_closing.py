"""What is kept of a request."""

from __future__ import annotations

import pytest

from arkwright.build.closing import opened
from arkwright.build.request import BuildRequest

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (f"docker-image://registry.example/app@{DIGEST}", f"docker-image://registry.example/app@{DIGEST}"),
        (f"oci-layout:///srv/base@{DIGEST}", f"oci-layout:///srv/base@{DIGEST}"),
        ("https://user:secret@host.example/a.git", "https://host.example/a.git"),
        ("../shared", "../shared"),
    ],
)
def test_credentials_are_left_out_and_digests_are_not(written: str, kept: str) -> None:
    said = opened(BuildRequest(context=".", named_contexts={"base": written}))
    assert "secret" not in said.named_contexts["base"]
    assert said.named_contexts["base"].replace("***@", "").replace("…@", "") == kept
