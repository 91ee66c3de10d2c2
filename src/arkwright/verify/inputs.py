"""Exactly the recorded inputs: images by digest, repositories by commit, contexts from where they are now."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from arkwright.attest.provenance import TREE
from arkwright.attest.statement import ResourceDescriptor
from arkwright.build.contexts import MAIN
from arkwright.build.replay import observe
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.diagnostics.errors import ArkwrightError, Denied, UserError
from arkwright.images.archives import write_layout
from arkwright.images.fetch import fetch
from arkwright.images.graph import closure, platform_of_manifest, read_document
from arkwright.images.places import Place
from arkwright.images.references import describe
from arkwright.oci.descriptor import INDEX, Descriptor
from arkwright.oci.digest import is_digest
from arkwright.oci.manifest import Index, Manifest
from arkwright.oci.manifest import encode as encode_document
from arkwright.oci.reference import Reference, parse_reference
from arkwright.policy.lock import Locked, Name
from arkwright.policy.lock import encode as encode_lock
from arkwright.registry.access import Access
from arkwright.sources.ignore import read_ignore_file
from arkwright.store.store import Store
from arkwright.verify.recorded import IMAGES, Recorded

_NAMED, _LAYOUT = IMAGES
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


class Context(msgspec.Struct, frozen=True):
    """A directory of this machine, and the lines of the ignore file that holds for it."""

    path: str
    ignore_lines: tuple[str, ...] = ()


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that a build needs, none of it of this machine but `contexts` (by name) and `bases_path`, an OCI layout.
    `lock` is a lock file of repositories and files from the web. `dockerfile_path` is set when the file is in a context from elsewhere. `secrets` are values by id, `agents` sockets.
    `movable`: another user can build it."""

    request: BuildRequest
    dockerfile: str
    stages: tuple[str, ...] = ()
    dockerfile_path: str = ""
    contexts: dict[str, Context]
    bases_path: str = ""
    lock: bytes = b""
    secrets: dict[str, str] = {}
    agents: dict[str, str] = {}
    tls_verify: bool | None = None
    movable: bool = True


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the user brings: directories of contexts by name, values of build arguments, entitlements, and the
    session's secrets."""

    contexts: dict[str, str] = {}
    build_args: dict[str, str] = {}
    allow: tuple[str, ...] = ()
    session: SessionInputs = SessionInputs()


def prepared(
    store: Store, recorded: Recorded, given: Given, work_path: str, access: Access | None = None, *,
    build: bool = True,
) -> Inputs:  # fmt: skip
    """The inputs of a recorded build, with its images in a layout below `work_path`. Without `build`, nothing is asked
    for that only building needs.

    Raises `UserError` `context-needed`, `argument-needed`, `secret-needed`; `Denied` `record-refused`,
    `input-mismatch`; and what fetching images raises.
    """
    request = _with_arguments(recorded, given) if build else recorded.request
    refused = sorted(set(request.allow) - set(given.allow))
    if refused and build:
        raise Denied.of(
            "record-refused", f"the record wants {', '.join(refused)} for its steps, which nobody here has allowed",
            hint=f"to let it: --allow {refused[0]}", details={"rule": "entitlement", "evidence": refused[0]},
        )  # fmt: skip
    if build:
        _require("secret", recorded.secrets, given.session.secrets, "--secret id={},src=FILE")
        _require("agent", recorded.agents, given.session.ssh, "--ssh {}")
    contexts = dict(_contexts(recorded, given))
    bases_path = os.path.join(work_path, "bases")
    bring_images(store, recorded.sources, bases_path, access)
    named = {
        name: _named_context(name, value, recorded.sources, bases_path)
        for name, value in request.named_contexts.items()
    }
    return Inputs(
        request=msgspec.structs.replace(
            request, context=_pinned(request.context, recorded.sources), named_contexts=named, pull=False
        ),
        dockerfile=recorded.dockerfile,
        dockerfile_path=_inside(recorded),
        contexts=contexts,
        bases_path=bases_path if os.path.isdir(bases_path) else "",
        lock=lock_of(recorded.sources),
        secrets=secret_values(given.session),
        agents=dict(given.session.ssh),
        tls_verify=given.session.tls_verify,
        # Another user may not read a repository of this one's.
        movable=not (given.session.ssh or any(one.uri.startswith("file://") for one in recorded.sources)),
    )


def of_request(
    store: Store, request: BuildRequest, session: SessionInputs, work_path: str, access: Access | None = None
) -> Inputs:
    """The inputs of a request: its sources pinned, its images in a layout, so that builds of it have the same.

    Raises `UserError` `context-needed` for a context on standard input, and what compiling a request raises.
    """
    if request.context == "-":
        raise UserError.of(
            "context-needed", "a context on standard input can be read once only",
            hint="unpack it into a directory, and name that",
        )  # fmt: skip
    found = observe(request, session, store.root_path)
    bases_path = os.path.join(work_path, "bases")
    bring_images(store, found.sources, bases_path, access)
    given = {MAIN: request.context, **request.named_contexts}
    contexts = {
        name: Context(os.path.realpath(path), found.ignore_lines.get(name, ()))
        for name, path in given.items()
        if os.path.isdir(path)
    }
    files = {name: os.path.abspath(path) for name, path in given.items() if os.path.isfile(path)}
    named = {
        name: files.get(name) or _named_context(name, value, found.sources, bases_path)
        for name, value in found.request.named_contexts.items()
        if name not in contexts
    }
    return Inputs(
        request=msgspec.structs.replace(
            found.request,
            context=files.get(MAIN) or _pinned(found.request.context, found.sources),
            named_contexts=named,
        ),
        dockerfile=found.dockerfile,
        stages=found.stages,
        contexts=contexts,
        bases_path=bases_path if os.path.isdir(bases_path) else "",
        lock=lock_of(found.sources),
        secrets=secret_values(session),
        agents=dict(session.ssh),
        tls_verify=session.tls_verify,
        movable=not (
            session.ssh
            or files
            or any("file://" in value for value in (found.request.context, *named.values()))
        ),
    )


def secret_values(session: SessionInputs) -> dict[str, str]:
    """The values, as they are handed to another process. Raises what `LocalSession.secret` raises."""
    from arkwright.sources.local import LocalSession

    reader = LocalSession({}, secrets={name: (spec.src, spec.env) for name, spec in session.secrets.items()})
    return {name: os.fsdecode(reader.secret(name) or b"") for name in session.secrets}


def moved(recorded: Sequence[ResourceDescriptor], used: Sequence[ResourceDescriptor]) -> list[str]:
    """How what a build used differs from what was recorded: sentences."""
    before = {_key(one): one.digest for one in recorded if _key(one)}
    after = {_key(one): one.digest for one in used if _key(one)}
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old != new:
            found.append(f"{key}: recorded {_shown(old)}, found {_shown(new)}")
    return found


def lock_of(sources: Sequence[ResourceDescriptor]) -> bytes:
    """A lock file of the repositories and files that the Dockerfile names, so that branches and URLs give what they
    gave."""
    found: dict[Name, Locked] = {}
    for source in sources:
        repository, _, fragment = source.uri.partition("#")
        algorithm, value = next(iter(source.digest.items()))
        if "signature" in source.annotations:
            name = f"{repository}#{fragment.partition(':')[0] or 'HEAD'}"
            found["git", name] = Locked(kind="git", name=name, digest=f"{algorithm}:{value}")
        elif source.uri.startswith(("http://", "https://")):
            scheme, _, rest = source.uri.partition("://")
            authority, slash, path = rest.partition("/")
            name = f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
            found["url", name] = Locked(kind="url", name=name, digest=f"{algorithm}:{value}")
    return encode_lock(found.values()) if found else b""


def bring_images(
    store: Store, sources: Sequence[ResourceDescriptor], bases_path: str, access: Access | None = None
) -> None:
    """Write the recorded images, by digest, into an OCI layout: from the store, else from registries.

    Raises `Denied` `input-mismatch` when a place gives another image, and what `images.fetch` raises.
    """
    images: dict[str, Descriptor] = {}
    named: dict[str, dict[str, Descriptor]] = {}
    for source in sources:
        if not source.uri.startswith(IMAGES):
            continue
        root = f"sha256:{source.digest['sha256']}"
        wanted = source.annotations.get("manifest", root)
        if not isinstance(wanted, str) or not is_digest(wanted):
            raise _mismatch(f"{source.uri}: {wanted!r} is no digest of a manifest")
        reference = _reference(source.uri)
        for digest in dict.fromkeys((wanted, root)):
            _bring(store, digest, reference, access, whole=digest == wanted)
        found = describe(store.content, root)
        if found is None:
            raise _mismatch(f"{source.uri}: {root} is no image")
        images[found.digest] = found
        if reference is not None and reference.tag:
            name = str(msgspec.structs.replace(reference, digest=""))
            named.setdefault(name, {})[found.digest] = found
    names: dict[str, list[str]] = {digest: [] for digest in images}
    for name, several in named.items():
        whole = _together(store, several.values())
        images[whole.digest] = whole
        names.setdefault(whole.digest, []).append(name)
    if images:
        entries = [(image, tuple(names[digest])) for digest, image in images.items()]
        write_layout(store.content, entries, bases_path)
        for folder, _, files in os.walk(bases_path):
            os.chmod(folder, 0o755)
            for name in files:
                os.chmod(os.path.join(folder, name), 0o644)


def _together(store: Store, images: Iterable[Descriptor]) -> Descriptor:
    """What a name stands for that gave several images, each for its platform: an index of them."""
    found = list(images)
    if len(found) == 1:
        return found[0]
    manifests = []
    for image in found:
        document = read_document(store.content, image)
        platform = (
            platform_of_manifest(store.content, image, document) if isinstance(document, Manifest) else None
        )
        manifests.append(msgspec.structs.replace(image, platform=platform))
    data = encode_document(Index(schema_version=2, media_type=INDEX, manifests=tuple(manifests)))
    return Descriptor(media_type=INDEX, digest=store.content.write(data), size=len(data))


def _bring(
    store: Store, digest: str, reference: Reference | None, access: Access | None, *, whole: bool
) -> None:
    found = describe(store.content, digest) if store.content.has(digest) else None
    if found is not None:
        try:
            if whole:
                closure(store.content, found)
        except UserError as error:
            if error.code != "missing-blob" or reference is None:
                raise
        else:
            return
    if reference is None:
        raise UserError.of(
            "missing-blob", f"the image {digest} came from an OCI layout, and is not in the store",
            hint="load the layout into the store: arkwright load",
        )  # fmt: skip
    exact = Reference(domain=reference.domain, path=reference.path, digest=digest)
    if whole:
        fetch(store, Place(transport="docker", text=str(exact), reference=exact), access=access)
        return
    from arkwright.registry.client import open_registries
    from arkwright.registry.pull import fetch_manifest

    with Access() as own:
        fetch_manifest(open_registries(access or own, exact), digest, store.content)


def _reference(uri: str) -> Reference | None:
    """The name of an image; None for one from a layout, or by digest alone."""
    text = uri.removeprefix(_NAMED)
    if uri.startswith(_LAYOUT) or is_digest(text):
        return None
    return parse_reference(text)


def _with_arguments(recorded: Recorded, given: Given) -> BuildRequest:
    lacking = [
        name for name in recorded.hidden_args if name not in given.build_args and name.lower() not in _PROXIES
    ]
    if lacking:
        raise UserError.of(
            "argument-needed", f"the record does not tell the value of the build argument {lacking[0]}",
            hint=f"give it again: --build-arg {lacking[0]}=VALUE",
        )  # fmt: skip
    arguments = {**recorded.request.build_args, **given.build_args}
    return msgspec.structs.replace(recorded.request, build_args=arguments)


def _inside(recorded: Recorded) -> str:
    """Where the Dockerfile is in a context from elsewhere, whose ignore file may be named after it."""
    path = recorded.dockerfile_path
    return path if recorded.request.context and not path.startswith("<") and "://" not in path else ""


def _require(what: str, names: Sequence[str], given: Mapping[str, object], option: str) -> None:
    for name in names:
        if name not in given:
            raise UserError.of(
                "secret-needed", f"the build used the {what} {name}, which no record tells",
                hint="give it again: " + option.format(name),
            )  # fmt: skip


def _contexts(recorded: Recorded, given: Given) -> Iterator[tuple[str, Context]]:
    for name in recorded.local_contexts():
        path = given.contexts.get(name)
        option = "--context DIR" if name == MAIN else f"--build-context {name}=DIR"
        if path is None or not os.path.isdir(path):
            raise UserError.of(
                "context-needed",
                f"the build read the context {name!r}, which is not recorded"
                + ("" if path is None else f", and {path} is no directory"),
                hint=f"say where it is: {option}; its content is checked against the recorded digest",
            )  # fmt: skip
        base = recorded.dockerfile_path if name == MAIN else ""
        yield name, Context(path, tuple(read_ignore_file(path, base)[0]))


def _named_context(name: str, value: str, sources: Sequence[ResourceDescriptor], bases_path: str) -> str:
    if value.startswith(_LAYOUT):
        return f"{_LAYOUT}{bases_path}@{value.removeprefix(_LAYOUT)}"
    if value.startswith(_NAMED):
        return value
    return _pinned(value, sources)


def _pinned(uri: str, sources: Sequence[ResourceDescriptor]) -> str:
    """A repository by its recorded commit, in place of a branch that moves."""
    for source in sources:
        if uri and source.uri == uri and "signature" in source.annotations:
            commit = next(iter(source.digest.values()))
            repository, _, fragment = uri.partition("#")
            _, colon, folder = fragment.partition(":")
            return f"{repository}#{commit}{colon}{folder}"
    return uri


def _key(source: ResourceDescriptor) -> str:
    """What a source is called in both builds. A commit is in one of them in place of its branch."""
    if source.name == "Dockerfile":
        return source.name
    if TREE in source.digest:
        return f"context {source.name.removeprefix('context:')}"
    if "signature" in source.annotations:
        return f"repository {source.uri.partition('#')[0]}"
    if source.uri.startswith(_LAYOUT):
        return f"image {source.digest.get('sha256', '')[:12]}"
    return source.uri


def _shown(digest: Mapping[str, str] | None) -> str:
    if not digest:
        return "nothing"
    name, value = next(iter(digest.items()))
    return f"{name}:{value[:16]}…"


def _mismatch(why: str) -> ArkwrightError:
    return Denied.of("input-mismatch", why, details={"rule": "input", "evidence": why})
