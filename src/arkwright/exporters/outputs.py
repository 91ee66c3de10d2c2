"""`--output`: its text, and what each type understands.

image     a name in the local store           name, push, compression, annotations …
registry  a push                              as image
oci       an OCI layout, as tar or directory  dest, tar, referrers, name, compression, annotations …
docker    an archive for `docker load`; without dest straight into docker or podman
local     a directory of files                dest, platform-split
tar       the same as one tar                 dest, platform-split
"""

from __future__ import annotations

from arkwright.diagnostics.errors import ArkwrightError, UserError
from arkwright.diagnostics.suggest import nearest
from arkwright.exporters.annotations import annotation_attribute
from arkwright.exporters.base import Output

_IMAGE = ("name", "compression", "oci-mediatypes", "rewrite-timestamp")
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "image": (*_IMAGE, "push"),
    "registry": (*_IMAGE, "push", "registry.insecure"),
    "oci": (*_IMAGE, "tar", "referrers"),
    "docker": _IMAGE,
    "local": ("platform-split",),
    "tar": ("platform-split",),
}
_LATER = frozenset(
    {
        "compression-level", "force-compression", "push-by-digest", "name-canonical", "store", "unpack",
        "dangling-name-prefix", "attestation-prefix", "context", "mode", "nydus-fs-version",
    }
)  # fmt: skip
_WITH_ANNOTATIONS = ("image", "registry", "oci", "docker")
_ALWAYS_TRUE = ("oci-mediatypes", "rewrite-timestamp")
_CODECS = {"gzip": "gzip", "zstd": "zstd", "uncompressed": "none", "none": "none"}
_BOOLEANS = {"true": True, "1": True, "": True, "false": False, "0": False}


def parse_output(text: str) -> Output:
    """Parse one `--output`: CSV of `key=value` as buildx takes it; a lone path is `type=local`, a
    lone `-` is `type=tar,dest=-`.

    Raises `UserError` `invalid-output` and what `check_output` raises.
    """
    fields = _fields(text)
    if len(fields) == 1 and "=" not in fields[0]:
        return Output(type="tar", dest="-") if text == "-" else Output(type="local", dest=fields[0])
    attrs: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals or not key:
            raise _invalid(text, f"{field!r} is not of the form key=value")
        attrs[key] = value
    kind, dest = attrs.pop("type", "").strip().lower(), attrs.pop("dest", "")
    if not kind:
        raise _invalid(text, "it names no type")
    output = Output(type=kind, dest=dest, attrs=attrs)
    check_output(output)
    return output


def check_output(output: Output) -> None:
    """Refuse what an exporter would not understand, rather than ignore it.

    Raises `UserError` `unknown-output-type`, `unknown-output-attribute`,
    `unsupported-output-attribute`, `invalid-output-attribute`, `invalid-output`.
    """
    known = _ATTRIBUTES.get(output.type)
    if known is None:
        raise _unknown_type(output.type)
    for name, value in output.attrs.items():
        if output.type in _WITH_ANNOTATIONS and annotation_attribute(name) is not None:
            continue
        if name in _LATER:
            raise UserError.of(
                "unsupported-output-attribute", f"--output type={output.type}: {name} is not built yet"
            )
        if name not in known:
            near = nearest(name, (*known, "dest"))
            raise UserError.of(
                "unknown-output-attribute",
                f"--output type={output.type} has no attribute {name!r}",
                hint=f"did you mean {near!r}?" if near else f"it has: {', '.join(('dest', *known))}",
            )
        _check_value(output.type, name, value)
    if output.type == "local" and output.dest in ("", "-"):
        raise _invalid(f"type=local,dest={output.dest}", "it needs a directory as dest")
    if output.type == "tar" and not output.dest:
        raise _invalid("type=tar", "it needs a dest")
    if output.type == "oci" and not output.dest:
        raise _invalid("type=oci", "it needs a dest")


def check_platforms(output: Output, count: int) -> None:
    """Refuse an output that cannot hold so many platforms, before they are built.

    Raises `UserError` `docker-archive-platforms`, `invalid-output-attribute`.
    """
    if count < 2:
        return
    if output.type == "docker":
        raise UserError.of(
            "docker-archive-platforms",
            f"docker load takes one platform, this build is for {count}",
            hint="use type=oci or type=image, which make an index, or build for one platform",
        )
    if output.type == "tar" and not flag(output, "platform-split", True):
        raise UserError.of(
            "invalid-output-attribute", "a tar of several platforms cannot have platform-split=false"
        )


def flag(output: Output, name: str, default: bool) -> bool:
    """A boolean attribute. Raises `UserError` `invalid-output-attribute`."""
    value = output.attrs.get(name)
    if value is None:
        return default
    found = _BOOLEANS.get(value.strip().lower())
    if found is None:
        raise _bad_value(output.type, name, value, "true or false")
    return found


def compression(output: Output, default: str) -> str:
    """The codec of the layers that this output wants written: `gzip`, `zstd` or `none`."""
    return _CODECS[output.attrs.get("compression", default)]


def output_annotations(output: Output) -> dict[str, str]:
    """The annotations among the attributes, spelled as `--annotation` takes them."""
    found = {}
    for name, value in output.attrs.items():
        annotation = annotation_attribute(name)
        if annotation is not None:
            found[annotation] = value
    return found


def names_of(output: Output, names: tuple[str, ...]) -> tuple[str, ...]:
    """The image names of this output: its `name` attribute (comma-separated) if there, else `names`.

    Raises `UserError` `invalid-reference`.
    """
    from arkwright.oci.reference import parse_reference

    if output.attrs.get("name"):
        return tuple(str(parse_reference(name.strip())) for name in output.attrs["name"].split(","))
    return names


def _fields(text: str) -> list[str]:
    """The fields of one CSV record (RFC 4180)."""
    if '"' not in text:
        return text.split(",") if text else []
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _invalid(text, str(error)) from error
    return rows[0] if rows else []


def _check_value(kind: str, name: str, value: str) -> None:
    if name == "compression" and value not in _CODECS:
        raise _bad_value(kind, name, value, "gzip, zstd or uncompressed")
    if name in _ALWAYS_TRUE and not _BOOLEANS.get(value.lower(), True):
        raise UserError.of(
            "unsupported-output-attribute",
            f"--output type={kind}: {name}=false is not possible: images have OCI media types and "
            "constant file times",
        )
    if name in ("tar", "referrers", "push", "platform-split", "registry.insecure", *_ALWAYS_TRUE):
        flag(Output(type=kind, attrs={name: value}), name, True)


def _bad_value(kind: str, name: str, value: str, wanted: str) -> ArkwrightError:
    return UserError.of(
        "invalid-output-attribute", f"--output type={kind}: {name} is {wanted}, not {value!r}"
    )


def _unknown_type(kind: str) -> ArkwrightError:
    near = nearest(kind, _ATTRIBUTES)
    return UserError.of(
        "unknown-output-type",
        f"there is no output of type {kind!r}",
        hint=f"did you mean {near!r}?" if near else f"there are: {', '.join(_ATTRIBUTES)}",
    )


def _invalid(text: str, why: str) -> ArkwrightError:
    return UserError.of(
        "invalid-output", f"--output {text}: {why}", hint="write for example type=oci,dest=image.tar"
    )
