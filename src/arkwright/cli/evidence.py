"""`arkwright key|sign|verify-signature`: who vouches for an image."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from arkwright.cli import values
from arkwright.cli.images import open_store
from arkwright.cli.invocation import Invocation
from arkwright.cli.parameters import Arguments, Commands, root_option, switch, tls_option
from arkwright.diagnostics.errors import UsageError, UserError

if TYPE_CHECKING:
    from arkwright.attest.keys import AskPassword, PublicKey, SigningKey

_IMAGE = "IMAGE is `docker://NAME` in a registry, or a name or digest in the local store."


@click.group(
    "key",
    cls=Commands,
    short_help="Make keys to sign with.",
    epilog="\b\nExample:\n  arkwright key generate release    # release.key and release.pub\n",
)
def key() -> None:
    """Make keys to sign with."""


@key.command(
    "generate",
    cls=Arguments,
    short_help="Make a pair of keys.",
    epilog="""\
\b
Examples:
  arkwright key generate                         # arkwright.key and arkwright.pub, here
  COSIGN_PASSWORD=… arkwright key generate release
""",
)
@click.argument("prefix", default="arkwright")
@switch("--no-password", help="Do not encrypt the private key.")
def generate(prefix: str, no_password: bool) -> None:
    """Write PREFIX.key and PREFIX.pub, an ECDSA P-256 pair as cosign and openssl read it.

    The private key is encrypted with a password: of $ARKWRIGHT_KEY_PASSWORD or $COSIGN_PASSWORD, else asked
    for. No file is replaced.
    """
    from arkwright.attest import keys

    password = "" if no_password else _new_password()
    pair = keys.generate()
    _write(f"{prefix}.key", pair.private_pem(password), 0o600)
    _write(f"{prefix}.pub", pair.public.pem, 0o644)
    click.echo(f"{prefix}.key {prefix}.pub {pair.key_id}")


@key.command("public", cls=Arguments)
@click.argument("path", metavar="KEY")
def public(path: str) -> None:
    """Print the public key that belongs to a private one."""
    click.echo(private_key(path).public.pem, nl=False)


@click.command(
    "sign",
    cls=Arguments,
    short_help="Sign an image with a key.",
    help=f"Sign an image with a key, for cosign and `verify-signature` to check.\n\n{_IMAGE} The signature is kept "
    "beside it, at the tag that cosign uses; the image does not change.",
    epilog="""\
\b
Examples:
  arkwright sign --key arkwright.key docker://registry.example/team/app:1
  arkwright sign --key cosign.key -a build=42 app:1
""",
)
@click.argument("image")
@click.option(
    "--key", "key_path", metavar="FILE", required=True, help="The private key: PKCS#8 PEM, or cosign's form."
)
@click.option("-a", "--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Sign this too.")
@switch("-q", "--quiet", help="Print the digest of the image only.")
@tls_option()
@root_option
@click.pass_obj
def sign(
    invocation: Invocation,
    /,
    image: str,
    key_path: str,
    annotations: tuple[str, ...],
    quiet: bool,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.attest import attach, cosign
    from arkwright.images.places import parse_place
    from arkwright.registry.access import Access

    stated = dict(values.pairs("--annotation", annotations))
    place, signer = parse_place(image), private_key(key_path)
    with open_store(invocation, root_path) as store, Access(tls_verify=tls_verify) as access:
        place, found = attach.locate(store, place, access)
        digest = found.digest
        payload = cosign.payload(digest, str(attach.repository(place)), stated)
        made = attach.attach(store, place, digest, "sig", [cosign.signature_layer(payload, signer)], access)
    click.echo(digest if quiet else f"{made.name} {digest}")


@click.command(
    "verify-signature",
    cls=Arguments,
    short_help="Check the signatures of an image.",
    help=f"Check that an image was signed by one of the keys, and print what they signed, as JSON lines.\n\n{_IMAGE} The "
    "exit status is 3 when no signature is good.",
    epilog="""\
\b
Examples:
  arkwright verify-signature --key arkwright.pub docker://registry.example/team/app:1
  arkwright verify-signature --key a.pub --key b.pub -a build=42 app:1
  arkwright verify-signature --key a.pub --attestation app:1 | jq .predicate
""",
)
@click.argument("image")
@click.option(
    "--key", "key_paths", multiple=True, required=True, metavar="FILE", help="A public key, PEM. [repeatable]"
)
@click.option(
    "-a", "--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Must be signed too."
)
@switch("--attestation", help="Check the signed statements about the image instead, and print them.")
@click.option(
    "--type", "predicate", metavar="URI", default="", help="With --attestation: the predicate's type."
)
@tls_option()
@root_option
@click.pass_obj
def verify_signature(
    invocation: Invocation,
    /,
    image: str,
    key_paths: tuple[str, ...],
    annotations: tuple[str, ...],
    attestation: bool,
    predicate: str,
    tls_verify: bool | None,
    root_path: str | None,
) -> None:
    from arkwright.attest import attach
    from arkwright.images.places import parse_place
    from arkwright.registry.access import Access

    wanted = dict(values.pairs("--annotation", annotations))
    if predicate and not attestation:
        raise UsageError.of("invalid-usage", "--type goes with --attestation")
    place, keys = parse_place(image), [_public(path) for path in key_paths]
    with open_store(invocation, root_path) as store, Access(tls_verify=tls_verify) as access:
        place, image_found = attach.locate(store, place, access)
        digest = image_found.digest
        layers = attach.attached(store, place, digest, "att" if attestation else "sig", access)
        if attestation:
            said = attach.check_attestations(layers, digest, keys, predicate)
        else:
            said = [one.payload for one in attach.check_signatures(layers, digest, keys, wanted)]
    for line in said:
        click.echo(msgspec.json.encode(msgspec.json.decode(line)).decode())


def private_key(path: str) -> SigningKey:
    """Load a key, asking for its password at the terminal. Raises as `attest.keys.load_private`."""
    from arkwright.attest import keys

    return keys.load_private(path, _asker(f"Password of {path}: "))


def _public(path: str) -> PublicKey:
    from arkwright.attest import keys

    return keys.load_public(path)


def _asker(prompt: str) -> AskPassword | None:
    """Ask at the terminal, if there is one."""
    if not sys.stdin.isatty():
        return None

    def ask() -> str:
        from getpass import getpass

        return getpass(prompt)

    return ask


def _new_password() -> str:
    for name in ("ARKWRIGHT_KEY_PASSWORD", "COSIGN_PASSWORD"):
        if name in os.environ:
            return os.environ[name]
    ask = _asker("Password of the new key: ")
    if ask is None:
        raise UserError.of(
            "key-password",
            "there is nobody to ask for a password of the new key",
            hint="set COSIGN_PASSWORD, or say --no-password",
        )
    return ask()


def _write(path: str, text: str, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, mode)
    except OSError as error:
        raise UserError.of("unwritable-file", f"cannot write {path}: {error.strerror}") from error
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)
