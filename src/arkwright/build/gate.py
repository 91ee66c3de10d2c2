"""The door of a build: policies say what may come in, and a lock file what it must be."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from arkwright.build.locks import LAYOUT, NAMED, source_name
from arkwright.diagnostics.errors import ArkwrightError, Denied, Diagnostic, Severity, UserError
from arkwright.diagnostics.spans import Span
from arkwright.graph.ops import SourceOp
from arkwright.oci import config as image_config
from arkwright.oci.digest import is_digest
from arkwright.oci.platform import Platform
from arkwright.oci.reference import Reference, parse_reference
from arkwright.sources.base import Pinned, PinnedImage

if TYPE_CHECKING:
    from arkwright.policy.lock import Locked, Name
    from arkwright.policy.model import Policy, Refusal


class CheckSigned(Protocol):
    """Raises `Denied` unless one of the keys (paths) has signed one of the digests under this name."""

    def __call__(self, reference: Reference, digests: Sequence[str], key_paths: Sequence[str]) -> None: ...


class Gate:
    """Implements `sources.door.Door`.

    `lock` None: there is none, or not yet. `must` says that everything has to be in it. `fresh` are
    the names that are found out anew although the lock has them; with `recording`, which makes a lock, what
    a name stands for is not asked to be known before. `seen` are the sources that came in.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        check_signed: CheckSigned,
        warn: Callable[[Diagnostic], None],
        *,
        must: bool = False,
        recording: bool = False,
        fresh: Callable[[Name], bool] = lambda name: False,
        hidden: Sequence[str] = (),
    ) -> None:
        self.lock: dict[Name, Locked] | None = None
        self.seen: dict[Name, Locked] = {}
        self.policies = policies
        self.recording = recording
        self._check_signed = check_signed
        self._warn = warn
        self._must = must
        self._fresh = fresh
        self._hidden = tuple(hidden)
        self._told: set[Name] = set()
        # How graphs name images that came in: by the manifest of one platform.
        self._derived: set[str] = set()

    @property
    def narrow(self) -> bool:
        return bool(self.policies)

    def admit(self, op: SourceOp, platform: Platform | None = None) -> SourceOp:
        """Raises `Denied` `policy-refused`; `UserError` `not-locked`, `lock-drift`, and for names that are none."""
        if op.identifier in self._derived:
            return op
        admitted = self._locked(op)
        for policy in self.policies:
            _require(policy, self._asked(policy, admitted))
        return admitted

    def reach(self, url: str, *, is_git: bool = False) -> None:
        from arkwright.policy import decide

        for policy in self.policies:
            _require(policy, decide.git(policy, url) if is_git else decide.url(policy, url))

    def may_ask(self, origin: str) -> bool:
        if not origin.startswith(NAMED):
            return all(policy.rules.images.layouts for policy in self.policies)
        from arkwright.policy import decide

        reference = parse_reference(origin.removeprefix(NAMED))
        return all(decide.image(policy, reference, digests=False) is None for policy in self.policies)

    def inspect(self, op: SourceOp, pinned: Pinned, platform: Platform | None = None) -> None:
        """Raises `Denied` `policy-refused` and what `check_signed` raises; `UserError` `lock-drift`."""
        if op.identifier in self._derived:
            return
        self._check_drift(op, pinned, platform)
        if isinstance(pinned, PinnedImage):
            for policy in self.policies:
                self._check_image(policy, op, pinned)
            place = op.identifier if op.identifier.startswith(LAYOUT) else f"{NAMED}{pinned.reference}"
            self._derived.add(f"{place.partition('@')[0]}@{pinned.manifest.digest}")
        self._remember(op, pinned, platform)

    def check_frontend(self, text: str, override: str) -> None:
        """Take note of the front end that a file asks for, or an argument; it is built in.

        Raises `UserError` `not-locked`.
        """
        if self.lock is None:
            return
        from arkwright.frontends.dockerfile.parser import detect_syntax
        from arkwright.policy.lock import Locked

        token = None if override else detect_syntax(text)
        asked = override.partition(" ")[0] or (token.text if token is not None else "")
        if asked:
            name: Name = ("frontend", asked)
            if name not in self.lock:
                self._missing(name)
            self.seen[name] = Locked(kind="frontend", name=asked)

    def _asked(self, policy: Policy, op: SourceOp) -> Refusal | None:
        from arkwright.policy import decide

        attrs, strict = dict(op.attrs), not self.recording
        if op.identifier.startswith("git://"):
            whole = attrs.get("checksum") or attrs.get("ref") or ""
            pinned = len(whole) in (40, 64) and all(char in "0123456789abcdef" for char in whole)
            return decide.git(policy, op.identifier.removeprefix("git://"), pinned=pinned or not strict)
        if not op.identifier.startswith((NAMED, LAYOUT)):
            return decide.url(policy, op.identifier, pinned=bool(attrs.get("checksum")) or not strict)
        text = op.identifier.removeprefix(NAMED)
        if op.identifier.startswith(LAYOUT) or is_digest(text):
            return decide.nameless_image(policy, text)
        return decide.image(policy, parse_reference(text), digests=strict)

    def _check_image(self, policy: Policy, op: SourceOp, pinned: PinnedImage) -> None:
        from arkwright.policy import decide
        from arkwright.policy.instructions import parse_instruction
        from arkwright.policy.model import Refusal

        config = image_config.parse(pinned.config)
        created = image_config.seconds(config.created)
        labels = config.config.labels
        _require(policy, decide.pinned_image(policy, pinned.reference, created, labels, time.time()))
        for line in config.config.on_build:
            _require(policy, decide.instruction(policy, parse_instruction(line), f"ONBUILD {line}"))
        if op.identifier.startswith(LAYOUT) or is_digest(pinned.reference):
            return
        # A name without a registry may have been looked for at another one than Docker's.
        reference = parse_reference(pinned.reference)
        _require(policy, decide.image(policy, reference, digests=False))
        for path, keys in decide.signature_keys(policy, reference):
            try:
                self._check_signed(reference, (pinned.digest, pinned.manifest.digest), keys)
            except Denied as error:
                why = f"{reference} is not signed as it must be: {error}"
                raise refused(policy, Refusal(rule=path, why=why, evidence=error.code)) from error

    def _entry(self, name: Name) -> Locked | None:
        if self.lock is None or (self.recording and self._fresh(name)):
            return None
        return self.lock.get(name)

    def _locked(self, op: SourceOp) -> SourceOp:
        if self.lock is None:
            return op
        name = source_name(op, self._hidden)
        entry = self._entry(name)
        if entry is None:
            self._missing(name)
            return op
        attrs = dict(op.attrs)
        if name[0] == "image":
            if "@" in op.identifier or op.identifier.startswith(LAYOUT) or is_digest(name[1]):
                return op
            return msgspec.structs.replace(op, identifier=f"{NAMED}{name[1]}@{entry.digest}")
        wanted = entry.digest.partition(":")[2] if name[0] == "git" else entry.digest
        given = attrs.get("checksum", "")
        if not wanted.startswith(given):
            if self.recording:
                # The Dockerfile says so, and the lock follows it.
                return op
            raise _drift(name, entry.digest, given)
        attrs["checksum"] = wanted
        if name[0] == "git":
            attrs["fetch-by-commit"] = "true"
        return msgspec.structs.replace(op, attrs=tuple(sorted(attrs.items())))

    def _missing(self, name: Name) -> None:
        if (self.recording or name in self._told) and not self._must:
            return
        self._told.add(name)
        message = f"the lock file does not have the {name[0]} {name[1]}"
        hint = "`arkwright lock` adds what is missing"
        if self._must:
            raise UserError.of("not-locked", message, hint=hint)
        self._warn(Diagnostic(code="not-locked", message=message, hint=hint, severity=Severity.WARNING))

    def _check_drift(self, op: SourceOp, pinned: Pinned, platform: Platform | None) -> None:
        entry = self._entry(source_name(op, self._hidden))
        if entry is None or self.recording:
            return
        if entry.digest != pinned.digest:
            raise _drift((entry.kind, entry.name), entry.digest, pinned.digest)
        manifest = entry.platforms.get(str(platform)) if platform is not None else None
        if manifest is not None and isinstance(pinned, PinnedImage) and manifest != pinned.manifest.digest:
            raise _drift((entry.kind, f"{entry.name} for {platform}"), manifest, pinned.manifest.digest)

    def _remember(self, op: SourceOp, pinned: Pinned, platform: Platform | None) -> None:
        from arkwright.policy.lock import Locked

        name = source_name(op, self._hidden)
        known = self.seen.get(name)
        platforms = dict(known.platforms) if known is not None else {}
        if isinstance(pinned, PinnedImage) and platform is not None:
            platforms[str(platform)] = pinned.manifest.digest
        self.seen[name] = Locked(
            kind=name[0], name=name[1], digest=pinned.digest, platforms=dict(sorted(platforms.items()))
        )


def refused(policy: Policy, refusal: Refusal, span: Span | None = None) -> ArkwrightError:
    """`Denied` `policy-refused`: the rule, where it stands, and where in the Dockerfile it is broken."""
    rule, place = rule_name(refusal), policy.place(refusal.rule)
    return Denied.of(
        "policy-refused", refusal.why, span, notes=(f"{place}: the rule {rule}",), hint=refusal.hint or None,
        details={"rule": rule, "evidence": refusal.evidence, "policy": place},
    )  # fmt: skip


def rule_name(refusal: Refusal) -> str:
    """A rule as people write it, such as `images.allow`."""
    return ".".join(str(part) for part in refusal.rule)


def _require(policy: Policy, refusal: Refusal | None) -> None:
    if refusal is not None:
        raise refused(policy, refusal)


def _drift(name: Name, wanted: str, found: str) -> ArkwrightError:
    return UserError.of(
        "lock-drift", f"the {name[0]} {name[1]} is {found}, and the lock file has {wanted}",
        hint=f"`arkwright lock --update={name[1]}` takes the new one",
        details={"wanted": wanted, "found": found},
    )  # fmt: skip
