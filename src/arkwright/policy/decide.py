"""What a policy says of one thing. Pure: nothing is looked up, and the clock is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arkwright.oci.reference import Reference
from arkwright.policy.instructions import Instruction, forbids, parse_forbidden
from arkwright.policy.model import Policy, Refusal
from arkwright.policy.patterns import matches_any, matches_image, matches_value
from arkwright.policy.places import Path

_DAY_S = 86400
_IMAGES: Path = ("images", "allow")


def image(policy: Policy, reference: Reference, *, digests: bool = True) -> Refusal | None:
    """Whether an image of this name may be asked for. `digests` False: its digest is being found out."""
    rules, name = policy.rules.images, str(reference)
    if not matches_image(rules.allow, reference.name, reference.tag):
        return _refusal(_IMAGES, f"no rule allows the image {name}", name)
    if digests and rules.digests and not reference.digest:
        return _refusal(
            ("images", "digests"), f"the image {name} is named without a digest", name,
            "`arkwright lock` pins what a Dockerfile uses, or write NAME@sha256:…",
        )  # fmt: skip
    return None


def nameless_image(policy: Policy, text: str) -> Refusal | None:
    """The same for an image that is not of a repository: by its digest alone, or in a layout."""
    if text.startswith("oci-layout://") and policy.rules.images.layouts:
        return None
    rule: Path = ("images", "layouts") if text.startswith("oci-layout://") else _IMAGES
    return _refusal(rule, f"no rule allows the image {text}", text)


def pinned_image(
    policy: Policy, name: str, created_s: int | None, labels: Mapping[str, str], now_s: float
) -> Refusal | None:
    """Whether an image may be used, by its config. `created_s` None: it does not say."""
    if policy.max_age_s:
        limit = policy.rules.images.max_age
        if created_s is None:
            return _refusal(("images", "max-age"), f"{name} does not say when it was made", "no time")
        age = int(now_s - created_s)
        if age > policy.max_age_s:
            days = age // _DAY_S
            return _refusal(
                ("images", "max-age"), f"{name} is {days} days old, which is more than {limit}", f"{days}d"
            )
    missing = _missing(policy.rules.images.labels, labels)
    return _refusal(("images", "labels"), f"{name} lacks the label {missing}", missing) if missing else None


def result(policy: Policy, labels: Mapping[str, str]) -> Refusal | None:
    """Whether the image that is built has the labels that it must have."""
    missing = _missing(policy.rules.result.labels, labels)
    if not missing:
        return None
    why = f"the image that is built lacks the label {missing}"
    return _refusal(("result", "labels"), why, missing, "add a LABEL, or --label")


def url(policy: Policy, text: str, *, pinned: bool = True) -> Refusal | None:
    """Whether a URL may be asked. `pinned` says that a checksum goes with it."""
    rules, (scheme, place) = policy.rules.urls, _split(text)
    if _forbids_source(policy, "URL"):
        return _refusal(("instructions", "forbid"), f"URLs are forbidden: {scheme}://{place}", place)
    if scheme not in rules.schemes:
        return _refusal(("urls", "schemes"), f"no rule allows {scheme} for {place}", f"{scheme}://{place}")
    if not matches_any(rules.allow, place):
        return _refusal(
            ("urls", "allow"), f"no rule allows the URL {scheme}://{place}", f"{scheme}://{place}"
        )
    if rules.checksums and not pinned:
        return _refusal(
            ("urls", "checksums"), f"{scheme}://{place} has no checksum", place,
            "write ADD --checksum=sha256:…, or let `arkwright lock` pin it",
        )  # fmt: skip
    return None


def git(policy: Policy, remote: str, *, pinned: bool = True) -> Refusal | None:
    """Whether a repository may be asked; `user@host:path` is ssh. `pinned`: for a whole commit."""
    rules, (scheme, place) = policy.rules.git, _split(remote)
    place = place.removesuffix("/").removesuffix(".git")
    if _forbids_source(policy, "GIT"):
        return _refusal(("instructions", "forbid"), f"repositories are forbidden: {place}", place)
    if scheme not in rules.schemes:
        return _refusal(("git", "schemes"), f"no rule allows {scheme} for {place}", f"{scheme}://{place}")
    if not matches_any(rules.allow, place):
        return _refusal(("git", "allow"), f"no rule allows the repository {place}", place)
    if rules.commits and not pinned:
        return _refusal(
            ("git", "commits"), f"{place} is not named by a commit", place,
            "name the commit, or let `arkwright lock` pin it",
        )  # fmt: skip
    return None


def step(policy: Policy, network: str, security: str) -> Refusal | None:
    """Whether a step may have this network and this security mode."""
    rules = policy.rules.steps
    if network not in rules.network:
        why = f"no rule allows a step the network {network!r}"
        return _refusal(("steps", "network"), why, network, "take it away with --network=none, or --hermetic")
    if security not in rules.security:
        return _refusal(("steps", "security"), f"no rule allows a step --security={security}", security)
    return None


def instruction(policy: Policy, found: Instruction, shown: str) -> Refusal | None:
    """Whether an instruction may stand in the file."""
    for text in policy.rules.instructions.forbid:
        rule = parse_forbidden(text)
        if rule is not None and forbids(rule, found):
            return _refusal(("instructions", "forbid"), f"{text!r} is forbidden", shown)
    return None


def frontend(policy: Policy, reference: Reference) -> Refusal | None:
    """Whether a file may ask for this front end."""
    if matches_image(policy.rules.frontends.allow, reference.name, reference.tag):
        return None
    return _refusal(("frontends", "allow"), f"no rule allows the front end {reference}", str(reference))


def cache(policy: Policy, name: str, reference: Reference | None) -> Refusal | None:
    """Whether results may be taken from a remote cache; None for one on this host, which `local` allows."""
    allowed = policy.rules.caches.allow
    if "local" in allowed if reference is None else matches_image(allowed, reference.name, reference.tag):
        return None
    return _refusal(("caches", "allow"), f"no rule allows the cache {name}", name)


def signature_keys(policy: Policy, reference: Reference) -> Sequence[tuple[Path, tuple[str, ...]]]:
    """The rules of signatures that an image falls under, each with the keys of which one is needed."""
    return [
        (("signatures", number), rule.keys)
        for number, rule in enumerate(policy.rules.signatures)
        if matches_image(rule.names, reference.name, reference.tag)
    ]


def _forbids_source(policy: Policy, kind: str) -> bool:
    return any(
        rule is not None and rule.kind == kind
        for rule in map(parse_forbidden, policy.rules.instructions.forbid)
    )


def _missing(wanted: Sequence[str], labels: Mapping[str, str]) -> str:
    for text in wanted:
        name, equals, pattern = text.partition("=")
        if name not in labels or (equals and not matches_value(pattern, labels[name])):
            return text
    return ""


def _split(text: str) -> tuple[str, str]:
    """Scheme, and host with path: without credentials, query and fragment; no scheme for what is no URL."""
    if "://" not in text:
        host, _, path = text.partition(":")
        return "ssh", f"{host.rpartition('@')[2].lower()}/{path.lstrip('/')}"
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
    except ValueError:
        return "", text
    return parts.scheme.lower(), f"{parts.netloc.rpartition('@')[2].lower()}{_plain_path(parts.path)}"


def _plain_path(path: str) -> str:
    """A path that says where it leads: `..` and `%2e` must not lead out of what is allowed."""
    import posixpath
    from urllib.parse import unquote

    plain = posixpath.normpath("/" + unquote(path).lstrip("/"))
    return plain + ("/" if path.endswith("/") and plain != "/" else "")


def _refusal(rule: Path, why: str, evidence: str, hint: str = "") -> Refusal:
    return Refusal(rule=rule, why=why, evidence=evidence, hint=hint)
