"""What the judges' versions cannot know: a case that uses it says nothing about them.

Buildah is that of Debian 12 (1.28), Docker that of Debian 12 (20.10, a BuildKit of Dockerfile 1.2).
Newer ones that do know are asked for nothing less by leaving these out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from conformance_cases import Case

_HEREDOC = r"^\s*(?:ONBUILD\s+)?(?:RUN|COPY|ADD)\b[^\n]*<<-?[\"']?[\w.]"
_MODIFIER = r"\$\{\w+(?:[-+?#%/]|:\?)"
_BOTH: Sequence[tuple[str, str]] = (
    (_HEREDOC, "heredocs"),
    (
        r"^\s*(?:ONBUILD\s+)?(?:COPY|ADD)\s[^\n]*--(?:link|parents|exclude|checksum|keep-git-dir|unpack)\b",
        "flags",
    ),
    (r"^\s*RUN\s[^\n]*--(?:security|device|network)\b", "flags of RUN"),
    (r"^\s*ADD\s[^\n]*\.git\b", "ADD of git repositories"),
    (_MODIFIER, "modifiers of expansions"),
    (r"--chmod=(?!0?[0-7]{3,4}\b)", "symbolic and checked modes"),
    (r"--start-interval", "start intervals"),
    (r"^#\s*check\s*=", "checks"),
    (r"TARGETSTAGE|BUILDKIT_|SOURCE_DATE_EPOCH", "built-in arguments"),
    (r"--mount=\S*(?:type=secret\S*env=|env=\S*type=secret)", "secrets as variables"),
)
_UNKNOWN: Mapping[str, Sequence[tuple[str, str]]] = {
    "docker": (*_BOTH, (r"^#\s*syntax\s*=", "syntax images, which it would pull")),
    "buildah": (
        *_BOTH,
        (r"sharing=private", "private cache mounts"),
        (r"--mount=\S*type=tmpfs\S*(?:rw|from=|size=)", "keys of tmpfs mounts"),
    ),
}


def unknown_syntax(judge: str, case: Case, version: str) -> str:
    """What of a case a judge of this version does not know; empty if it knows all."""
    old = {"docker": ("19.", "20."), "buildah": ("1.2",)}[judge]
    if not version.startswith(old):
        return ""
    texts = [case.dockerfile, *(again.dockerfile or "" for again in case.again), "\n".join(case.args)]
    for base in case.bases.values():
        texts += [f"{trigger}" for trigger in base.config.get("OnBuild", [])]
    whole = re.sub(r"\\\n", " ", "\n".join(texts))
    for pattern, words in _UNKNOWN[judge]:
        if re.search(pattern, whole, re.MULTILINE):
            return f"{judge} {version} knows no such {words}"
    return ""
