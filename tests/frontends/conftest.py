"""One call that compiles a Dockerfile, one for what must be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from frontend_data import AMD64, Built, DataBridge, image_config

from arkwright.diagnostics.errors import ArkwrightError, Diagnostic, UserError
from arkwright.diagnostics.spans import SourceFile
from arkwright.frontends.base import FrontendRequest
from arkwright.frontends.dockerfile.build import build
from arkwright.frontends.dockerfile.parser import parse
from arkwright.frontends.dockerfile.syntax import Dockerfile
from arkwright.oci.config import ImageConfig


@pytest.fixture
def compile_file() -> Callable[..., Built]:
    """Compile a text: `images` are base configs by name, `contexts` named contexts; all else goes
    into the request."""

    def run(
        text: str | bytes,
        *,
        images: dict[str, ImageConfig] | None = None,
        contexts: dict[str, str] | None = None,
        error: ArkwrightError | None = None,
        times: dict[str, int] | None = None,
        **request: Any,
    ) -> Built:
        data = text.encode() if isinstance(text, str) else text
        known = {"debian": image_config(), "alpine": image_config(), "busybox": image_config()}
        bridge = DataBridge({"Dockerfile": data}, {**known, **(images or {})}, contexts or {}, error)
        bridge.times = times or {}
        request.setdefault("build_platform", AMD64)
        return Built(build(bridge, FrontendRequest(**request)), bridge)

    return run


@pytest.fixture
def fails(compile_file: Callable[..., Built]) -> Callable[..., Diagnostic]:
    """Compile what must be refused; gives the first diagnostic after its code was compared."""

    def run(code: str, text: str | bytes, **request: Any) -> Diagnostic:
        with pytest.raises(UserError) as caught:
            compile_file(text, **request)
        assert caught.value.code == code, caught.value.diagnostics
        return caught.value.diagnostics[0]

    return run


@pytest.fixture
def parse_text() -> Callable[[str], Dockerfile]:
    return lambda text: parse(SourceFile("Dockerfile", text))
