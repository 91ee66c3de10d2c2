"""Builds under a policy: what it refuses is never contacted, and the refusal says rule and place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from arkwright.attest import cosign, keys
from arkwright.oci.descriptor import MANIFEST, Descriptor
from arkwright.oci.reference import parse_reference
from arkwright.registry.access import Access
from arkwright.registry.client import open_registries
from arkwright.registry.referrers import attach
from arkwright.store.store import Store
from building import Builder, Context, MakeBuilder
from loopback_server import LoopbackRegistry
from registry.registry_images import Docker
from sources.sources_servers import Repository, Site

LOCAL = '[images]\nallow = ["docker.io/library/busybox"]\n'


class Refused:
    """How a build under a policy ended."""

    def __init__(
        self, builder: Builder, context: Path | str, rules: str, *args: str, status: int = 3
    ) -> None:
        path = builder.scratch / "policy.toml"
        path.write_text(f"version = 1\n{rules}")
        self.err = builder.run("build", "--policy", str(path), *args, str(context), status=status).err

    def by(self, rule: str, place: str, line: int = 0) -> bool:
        """Whether it is this rule, at LINE:COLUMN of the policy (or "" for the file), and this line of the Dockerfile."""
        where = f"policy.toml:{place}: the rule {rule}" if place else f"policy.toml: the rule {rule}"
        at = f"Dockerfile:{line}:" in self.err if line else "Dockerfile:" not in self.err
        found = "error[policy-refused]" in self.err and where in self.err and at
        assert found, self.err
        return found


@pytest.fixture
def server() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as made:
        yield made


@pytest.fixture
def root(make_builder: MakeBuilder) -> Builder:
    return make_builder("root")


def test_what_a_policy_allows_is_built(builder: Builder, context: Context, site: Site) -> None:
    site.serve("/ok/file", b"x")
    rules = LOCAL + (
        f'[urls]\nallow = ["{site.url[7:]}/ok/*"]\nschemes = ["http"]\n'
        '[frontends]\nallow = ["docker.io/docker/dockerfile:1"]\n[result]\nlabels = ["team"]\n'
    )
    text = f"# syntax=docker/dockerfile:1\nFROM busybox\nADD {site.url}/ok/file /f\nRUN --network=none cat /f\nLABEL team=a\n"
    Refused(builder, context({"Dockerfile": text}), rules, status=0)
    told = json.loads(builder.run("provenance").out)["predicate"]["buildDefinition"]["externalParameters"]
    digest = hashlib.sha256((builder.scratch / "policy.toml").read_bytes()).hexdigest()
    assert told["request"]["args"]["policy"] == f"sha256:{digest}"


OUTSIDE = (
    "FROM {host}/team/app:1",
    "FROM busybox\nCOPY --from={host}/team/app:1 /a /b",
    "FROM busybox\nRUN --network=none --mount=from={host}/team/app:1,target=/x true",
    "FROM {host}/team/app:1 AS a\nFROM {host}/team/app:1 AS b\nFROM {host}/team/other:2",
    "FROM scratch\nADD {url}/file /f",
    "FROM scratch\nADD {url}/repo.git /f",
)


def test_what_no_rule_allows_is_not_contacted(
    root: Builder, context: Context, server: LoopbackRegistry, site: Site
) -> None:
    for line in OUTSIDE:
        text = line.format(host=server.url[7:], url=site.url)
        number = max(n for n, one in enumerate(text.splitlines(), 1) if "127.0.0.1" in one)
        refused = Refused(root, context({"Dockerfile": text}), LOCAL)
        rule = (
            "images.allow" if server.url[7:] in text else "git.schemes" if ".git" in text else "urls.schemes"
        )
        assert refused.by(rule, "3:1" if rule == "images.allow" else "", number)
    assert server.seen == [] and site.requests == []


def test_contexts_of_the_command_line_are_sources_too(
    root: Builder, context: Context, server: LoopbackRegistry, site: Site, scratch: Path, busybox_layout: Path
) -> None:
    repository = Repository(scratch / "repository")
    repository.commit(Dockerfile="FROM scratch\n")
    plain = context({"Dockerfile": "FROM busybox\nCOPY --from=x /f /\n"})
    name = f"{server.url[7:]}/team/app:1"
    for value, rule, place, line in (
        (f"{site.url}/c.tar", "urls.schemes", "", 0),
        (repository.url, "git.schemes", "", 0),
        (f"docker-image://{name}", "images.allow", "3:1", 2),
        (f"oci-layout://{busybox_layout}", "images.layouts", "2:1", 2),
    ):
        assert Refused(root, plain, LOCAL, "--build-context", f"x={value}").by(rule, place, line)
    assert Refused(root, f"{site.url}/c.tar", LOCAL).by("urls.schemes", "")
    assert Refused(root, f"{repository.url}#main", LOCAL).by("git.schemes", "")
    assert Refused(root, plain, LOCAL, "-f", f"{site.url}/Dockerfile").by("urls.schemes", "")
    assert server.seen == [] and site.requests == []


def test_a_redirection_must_not_lead_elsewhere(root: Builder, context: Context, site: Site) -> None:
    other = Site()
    try:
        other.serve("/secret", b"x")
        site.serve("/ok/file", b"", 302, Location=f"{other.url}/secret")
        text = f"FROM scratch\nADD {site.url}/ok/file /f\n"
        rules = f'[urls]\nschemes = ["http"]\nallow = ["{site.url[7:]}/ok/*"]\n'
        assert Refused(root, context({"Dockerfile": text}), rules).by("urls.allow", "4:1", 2)
        assert other.requests == []
    finally:
        other.close()


def test_submodules_are_repositories_too(root: Builder, scratch: Path) -> None:
    inner = Repository(scratch / "inner")
    inner.commit(file="x")
    outer = Repository(scratch / "outer")
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inner.url, "sub")
    outer.commit(Dockerfile="FROM scratch\nCOPY sub/file /\n")
    path = scratch / "policy.toml"
    rules = f'version = 1\n[git]\nschemes = ["file"]\nallow = ["{outer.path}"]\n'
    path.write_text(rules)
    done = root.run("build", "--policy", str(path), f"{outer.url}#main", status=3)
    assert "policy-refused" in done.err and "/inner" in done.err
    path.write_text(rules.replace(f'"{outer.path}"', f'"{outer.path}", "{inner.path}"'))
    root.run("build", "--policy", str(path), f"{outer.url}#main")


def test_digests_can_be_required_and_a_lock_gives_them(root: Builder, context: Context, site: Site) -> None:
    site.serve("/file", b"x")
    place = context({"Dockerfile": f"FROM busybox\nADD {site.url}/file /f\n"})
    rules = (
        LOCAL + f'digests = true\n[urls]\nschemes = ["http"]\nallow = ["{site.url[7:]}"]\nchecksums = true\n'
    )
    assert Refused(root, place, rules).by("images.digests", "4:1", 1)
    path = root.scratch / "policy.toml"
    root.run("lock", "--policy", str(path), str(place))
    Refused(root, place, rules, "--locked", status=0)
    # Without one, the image can be pinned by hand, and then the URL is what is missing.
    (place / "arkwright.lock").unlink()
    digest = json.loads(root.run("inspect", "busybox").out)["digest"]
    (place / "Dockerfile").write_text(f"FROM busybox@{digest}\nADD {site.url}/file /f\n")
    assert Refused(root, place, rules).by("urls.checksums", "8:1", 2)


def test_the_age_and_the_labels_of_a_base(root: Builder, context: Context) -> None:
    """The bases that are made here are from the year 2000."""
    place = context({"Dockerfile": "FROM busybox\n"})
    assert Refused(root, place, LOCAL + 'max-age = "1y"\n').by("images.max-age", "4:1", 1)
    assert Refused(root, place, LOCAL + 'labels = ["team"]\n').by("images.labels", "4:1", 1)
    base = context({"Dockerfile": "FROM busybox\nLABEL team=a\n"}, "base")
    root.build(base, "-t", "mine", "--timestamps=keep")
    rules = '[images]\nallow = ["docker.io/library/mine"]\nmax-age = "1y"\nlabels = ["team=a"]\n'
    Refused(root, context({"Dockerfile": "FROM mine\n"}, "third"), rules, status=0)


def test_steps_and_instructions(root: Builder, context: Context) -> None:
    text = "FROM busybox\nRUN true\nRUN --network=none true\nVOLUME /x\nRUN --security=insecure --network=none true\n"
    place = context({"Dockerfile": text})
    allow = "--allow=security.insecure"
    refused = Refused(root, place, LOCAL, allow)
    assert refused.by("steps.network", "", 2) and refused.by("steps.security", "", 5)
    forbid = '[instructions]\nforbid = ["VOLUME", "RUN --security=insecure"]\n'
    more = Refused(root, place, LOCAL + forbid, allow)
    assert more.by("instructions.forbid", "5:1", 4) and more.by("instructions.forbid", "5:1", 5)
    steps = '[steps]\nnetwork = ["none", "default"]\nsecurity = ["sandbox", "insecure"]\n'
    (place / "Dockerfile").write_text(text.replace("RUN --security=insecure", "RUN"))
    Refused(root, place, LOCAL + steps, status=0)
    # A hermetic build has no network to be asked for.
    Refused(root, place, LOCAL, "--hermetic", status=0)


def test_a_forbidden_instruction_in_a_trigger_of_the_base(root: Builder, context: Context) -> None:
    base = context({"Dockerfile": "FROM busybox\nONBUILD VOLUME /x\n"}, "base")
    root.build(base, "-t", "trigger")
    rules = '[images]\nallow = ["docker.io/library/*"]\n[instructions]\nforbid = ["VOLUME"]\n'
    place = context({"Dockerfile": "FROM trigger\n"})
    assert Refused(root, place, rules).by("instructions.forbid", "5:1", 1)


def test_front_ends_caches_and_labels_of_the_result(root: Builder, context: Context) -> None:
    place = context({"Dockerfile": "# syntax=docker/dockerfile:1\nFROM busybox\n"})
    assert Refused(root, place, LOCAL).by("frontends.allow", "", 1)
    plain = context({"Dockerfile": "FROM busybox\n"}, "plain")
    args = ("--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1")
    assert Refused(root, plain, LOCAL, *args).by("frontends.allow", "")
    cache = f"type=local,src={root.scratch}/cache"
    assert Refused(root, plain, LOCAL, "--cache-from", cache).by("caches.allow", "")
    assert Refused(root, plain, LOCAL + '[result]\nlabels = ["team"]\n').by("result.labels", "5:1")
    Refused(root, plain, LOCAL + '[result]\nlabels = ["team"]\n', "--label", "team=a", status=0)


def test_every_policy_has_to_allow_it(root: Builder, context: Context) -> None:
    place = context({"Dockerfile": "FROM busybox\n"})
    closed = root.scratch / "closed.toml"
    closed.write_text("version = 1\n")
    root.env["ARKWRIGHT_POLICY"] = str(closed)
    done = root.run("build", str(place), status=3)
    assert "closed.toml: the rule images.allow" in done.err
    Refused(root, place, LOCAL)
    closed.write_text("version = 1\n[image]\n")
    assert "invalid-policy" in root.run("build", str(place), status=1).err


def test_a_policy_can_be_checked_by_itself(root: Builder, context: Context) -> None:
    place = context({"Dockerfile": "FROM busybox\nRUN true\n"})
    path = root.scratch / "policy.toml"
    path.write_text(f"version = 1\n{LOCAL}")
    root.run("policy", "check", str(path))
    assert "steps.network" in root.run("policy", "check", str(path), str(place), status=3).err
    path.write_text(f"version = 1\n{LOCAL}[steps]\nnetwork = ['default']\n")
    root.run("policy", "check", str(path), str(place))
    assert (
        list(root.store.glob("history/*")) == []
        and "unreadable-policy" in root.run("policy", "check", "/none", status=1).err
    )


# --- Signatures -----------------------------------------------------------------------------------


class Signed:
    """An image at a registry, and who has signed it."""

    def __init__(self, builder: Builder, host: str) -> None:
        self.builder, self.name = builder, f"{host}/team/base"
        self.key, self.other = keys.generate(), keys.generate()
        root = builder.scratch / "base"
        root.mkdir(exist_ok=True)
        (root / "Dockerfile").write_text("FROM busybox\nLABEL signed=maybe\n")
        tags = [word for tag in "12" for word in ("-o", f"type=registry,name={self.name}:{tag}")]
        self.digest = builder.build(root, *tags).digest
        (builder.scratch / "release.pub").write_text(self.key.public.pem)

    @property
    def rules(self) -> str:
        return (
            f'[images]\nallow = ["{self.name}"]\n'
            f'[[signatures]]\nnames = ["{self.name}"]\nkeys = ["release.pub"]\n'
        )

    def sign(self, key: keys.SigningKey, *, digest: str = "", by: str = "tag") -> None:
        """As `cosign sign` does, at the tag or as a referrer."""
        layer = cosign.signature_layer(cosign.payload(digest or self.digest, self.name), key)
        store_path = self.builder.scratch / f"signer-{key.key_id[:8]}-{by}"
        with Store.open(str(store_path)) as store, Access() as access:
            registry = open_registries(access, parse_reference(self.name), push=True)[0]
            descriptor, data = registry.get_manifest(self.digest)
            subject = Descriptor(media_type=MANIFEST, digest=self.digest, size=len(data))
            made = (
                cosign.artifact([layer])
                if by == "tag"
                else cosign.artifact([layer], subject, cosign.SIGNATURE_ARTIFACT)
            )
            assert descriptor.digest == self.digest
            for blob in (*made.blobs.values(), made.manifest):
                store.content.write(blob)
            if by == "tag":
                from arkwright.registry.push import push_image

                tag = parse_reference(f"{self.name}:{cosign.tag_of(self.digest, 'sig')}")
                push_image(made.descriptor, tag, store.content)
            else:
                attach(registry, made.descriptor, store.content)


@pytest.mark.parametrize(("identity", "by"), [("root", "tag"), ("subids", "referrer")])
def test_a_signature_is_found_and_remembered(
    make_builder: MakeBuilder, context: Context, registry: Docker, identity: str, by: str
) -> None:
    builder = make_builder(identity)
    image = Signed(make_builder("root", "pusher"), registry.host)
    # Two names, so that they are looked up side by side.
    place = context({"Dockerfile": f"FROM {image.name}:1\nCOPY --from={image.name}:2 /bin/sh /x\n"})
    refused = Refused(builder, place, image.rules)
    assert refused.by("signatures.0", "4:1", 1) and "there is no signature" in refused.err
    image.sign(image.other, by=by)
    assert Refused(builder, place, image.rules).by("signatures.0", "4:1", 1)
    image.sign(image.key, by=by)
    Refused(builder, place, image.rules, status=0)
    # The signature that was found is checked again without the registry.
    registry.__exit__()
    Refused(builder, place, image.rules, "--no-cache", status=0)
    other = builder.scratch / "release.pub"
    other.write_text(keys.generate().public.pem)
    assert "registry" in Refused(builder, place, image.rules, status=5).err


def test_a_signature_of_another_image_does_not_count(
    root: Builder, make_builder: MakeBuilder, context: Context, registry: Docker
) -> None:
    image = Signed(make_builder("root", "pusher"), registry.host)
    image.sign(image.key, digest="sha256:" + "a" * 64)
    place = context({"Dockerfile": f"FROM {image.name}:1\n"})
    refused = Refused(root, place, image.rules)
    assert refused.by("signatures.0", "4:1", 1) and "signature is of the image" in refused.err
    rules = image.rules.replace("allow = [", 'allow = ["docker.io/library/busybox", ')
    for line in (
        f"COPY --from={image.name}:1 /bin/sh /x",
        f"RUN --network=none --mount=from={image.name}:1,target=/x true",
    ):
        (place / "Dockerfile").write_text(f"FROM busybox\n{line}\n")
        assert Refused(root, place, rules).by("signatures.0", "4:1", 2)


def test_a_signature_of_the_local_store_counts(root: Builder, context: Context) -> None:
    root.run("key", "generate", "--no-password", str(root.scratch / "release"))
    place = context({"Dockerfile": "FROM busybox\n"})
    rules = LOCAL + '[[signatures]]\nnames = ["docker.io/library/**"]\nkeys = ["release.pub"]\n'
    root.run("sign", "--key", str(root.scratch / "release.key"), "busybox")
    Refused(root, place, rules, status=0)
