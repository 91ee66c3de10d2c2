"""The headings that `docs:` sources may name: those of the Dockerfile reference, and a few pages beside it."""

from __future__ import annotations

HEADINGS = frozenset(
    {
        "Overview", "Format", "Parser directives", "syntax", "escape", "check", "Environment replacement",
        ".dockerignore file", "Shell and exec form", "Exec form", "Variable substitution", "Backslashes",
        "Shell form", "Use a different shell", "FROM", "Understand how ARG and FROM interact", "RUN",
        "Cache invalidation for RUN instructions", "RUN --device", "RUN --mount", "RUN --mount=type=bind",
        "RUN --mount=type=cache", "RUN --mount=type=tmpfs", "RUN --mount=type=secret", "RUN --mount=type=ssh",
        "RUN --network", "RUN --network=default", "RUN --network=none", "RUN --network=host",
        "RUN --security", "CMD", "LABEL", "MAINTAINER", "EXPOSE", "ENV", "ADD", "ADD --keep-git-dir",
        "ADD --checksum", "ADD --chmod", "ADD --chown", "ADD --link", "ADD --exclude", "ADD --unpack", "COPY",
        "COPY --from", "COPY --chown", "COPY --chmod", "COPY --link", "COPY --parents", "COPY --exclude",
        "ENTRYPOINT", "Exec form ENTRYPOINT example", "Shell form ENTRYPOINT example",
        "Understand how CMD and ENTRYPOINT interact", "VOLUME", "Notes about specifying volumes", "USER",
        "WORKDIR", "ARG", "Default values", "Scope", "Using ARG variables", "Predefined ARGs",
        "Automatic platform ARGs in the global scope", "BuildKit built-in build args",
        "Impact on build caching", "ONBUILD", "Copy or mount from stage, image, or context",
        "ONBUILD limitations", "STOPSIGNAL", "HEALTHCHECK", "SHELL", "Here-Documents",
        # Pages beside the reference.
        "Build context", "Build variables", "Build checks", "Multi-stage builds", "Multi-platform builds",
        "Build secrets", "buildx build",
    }
)  # fmt: skip
CHECKS = frozenset(
    [
        "StageNameCasing",
        "FromAsCasing",
        "NoEmptyContinuation",
        "ConsistentInstructionCasing",
        "DuplicateStageName",
        "ReservedStageName",
        "JSONArgsRecommended",
        "MaintainerDeprecated",
        "UndefinedArgInFrom",
        "WorkdirRelativePath",
        "UndefinedVar",
        "MultipleInstructionsDisallowed",
        "LegacyKeyValueFormat",
        "InvalidBaseImagePlatform",
        "RedundantTargetPlatform",
        "SecretsUsedInArgOrEnv",
        "InvalidDefaultArgInFrom",
        "FromPlatformFlagConstDisallowed",
        "CopyIgnoredFile",
        "InvalidDefinitionDescription",
        "ExposeProtoCasing",
        "ExposeInvalidFormat",
    ]
)


def known_section(name: str) -> bool:
    """Whether a heading is known: as written, or `build-checks/RULE`."""
    page, _, rule = name.partition("/")
    return name in HEADINGS or (page == "build-checks" and rule in CHECKS)
