"""The build checks: their names, which are BuildKit's, their codes, and what they say."""

from __future__ import annotations

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """A check: `name` as the check directive has it, `code` that of its diagnostics.

    `experimental` checks run only when the directive asks for them.
    """

    name: str
    code: str
    description: str
    experimental: bool = False


# The names are those of BuildKit's frontend/dockerfile/linter; the last three are ours.
RULES = (
    Rule("StageNameCasing", "stage-name-casing", "Names of stages are in lower case"),
    Rule("FromAsCasing", "from-as-casing", "FROM and AS are in the same case"),
    Rule("NoEmptyContinuation", "no-empty-continuation", "No blank line stands inside of an instruction"),
    Rule("ConsistentInstructionCasing", "consistent-instruction-casing", "All instructions are in the same case"),
    Rule("DuplicateStageName", "duplicate-stage-name", "No two stages have the same name"),
    Rule("ReservedStageName", "reserved-stage-name", "No stage has a name that means something else"),
    Rule("JSONArgsRecommended", "json-args-recommended", "CMD and ENTRYPOINT are in JSON form, so that signals arrive"),
    Rule("MaintainerDeprecated", "maintainer-deprecated", "A label names the maintainer"),
    Rule("UndefinedArgInFrom", "undefined-arg-in-from", "FROM uses arguments that are declared before it"),
    Rule("WorkdirRelativePath", "workdir-relative-path", "The first WORKDIR of a stage is an absolute path"),
    Rule("UndefinedVar", "undefined-var", "Variables are declared before they are used"),
    Rule("MultipleInstructionsDisallowed", "multiple-instructions-disallowed", "CMD, ENTRYPOINT and HEALTHCHECK stand once in a stage"),
    Rule("LegacyKeyValueFormat", "legacy-key-value-format", "ENV and LABEL are written with ="),
    Rule("InvalidBaseImagePlatform", "invalid-base-image-platform", "A base image is of the platform that is built"),
    Rule("RedundantTargetPlatform", "redundant-target-platform", "FROM does not repeat the default --platform=$TARGETPLATFORM"),
    Rule("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env", "ARG and ENV hold no secrets"),
    Rule("InvalidDefaultArgInFrom", "invalid-default-arg-in-from", "The defaults of global arguments give a base image's name"),
    Rule("FromPlatformFlagConstDisallowed", "from-platform-flag-const-disallowed", "--platform of FROM is not a constant"),
    Rule("CopyIgnoredFile", "copy-ignored-file", "COPY and ADD name no file that the ignore file excludes"),
    Rule("InvalidDefinitionDescription", "invalid-definition-description", "A comment above a stage or argument describes it", True),
    Rule("ExposeProtoCasing", "expose-proto-casing", "The protocol of EXPOSE is in lower case"),
    Rule("ExposeInvalidFormat", "expose-invalid-format", "EXPOSE names no address and no port of the host"),
    Rule("UnpinnedBaseImage", "unpinned-base-image", "Base images are pinned by digest", True),
    Rule("SecretInCopy", "secret-in-copy", "COPY and ADD name no file that usually holds a secret", True),
    Rule("AptGetUpdateAlone", "apt-get-update-alone", "apt-get update and install are one RUN", True),
)  # fmt: skip

BY_CODE = {rule.code: rule for rule in RULES}
BY_NAME = {rule.name.lower(): rule for rule in RULES}
