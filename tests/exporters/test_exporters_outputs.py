"""`--output`: spellings, and nothing ignored in silence."""

from __future__ import annotations

import pytest

from arkwright.diagnostics.errors import UserError
from arkwright.exporters import outputs
from arkwright.exporters.base import Output


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("out", Output(type="local", dest="out")),
        ("-", Output(type="tar", dest="-")),
        ("type=oci,dest=a.tar", Output(type="oci", dest="a.tar")),
        ("type=OCI,DEST=a.tar,Tar=false", Output(type="oci", dest="a.tar", attrs={"tar": "false"})),
        ('type=local,"dest=a,b"', Output(type="local", dest="a,b")),
        ("type=docker", Output(type="docker")),
        (
            "type=image,name=x,annotation-index.a=b",
            Output(type="image", attrs={"name": "x", "annotation-index.a": "b"}),
        ),
    ],
)
def test_spellings(text: str, output: Output) -> None:
    assert outputs.parse_output(text) == output


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid-output"),
        ("dest=x", "invalid-output"),
        ("type=oci,dest", "invalid-output"),
        ('type=oci,"dest=a', "invalid-output"),
        ("type=local", "invalid-output"),
        ("type=tar", "invalid-output"),
        ("type=oic,dest=x", "unknown-output-type"),
        ("type=oci,dest=x,compresion=gzip", "unknown-output-attribute"),
        ("type=local,dest=x,compression=gzip", "unknown-output-attribute"),
        ("type=local,dest=x,annotation.a=b", "unknown-output-attribute"),
        ("type=oci,dest=x,compression=lzma", "invalid-output-attribute"),
        ("type=oci,dest=x,tar=maybe", "invalid-output-attribute"),
        ("type=oci,dest=x,compression-level=9", "unsupported-output-attribute"),
        ("type=oci,dest=x,oci-mediatypes=false", "unsupported-output-attribute"),
        ("type=image,push-by-digest=true", "unsupported-output-attribute"),
    ],
)
def test_what_is_wrong_is_said(text: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        outputs.parse_output(text)
    assert caught.value.code == code


def test_a_slip_gets_a_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        outputs.parse_output("type=oci,dest=x,compresion=gzip")
    assert "compression" in str(caught.value.diagnostics[0].hint)


def test_names_of_the_output_win() -> None:
    output = outputs.parse_output('type=image,"name=a, b:2"')
    assert outputs.names_of(output, ("docker.io/library/c:latest",)) == (
        "docker.io/library/a:latest",
        "docker.io/library/b:2",
    )
    assert outputs.names_of(Output(type="image"), ("x",)) == ("x",)


def test_annotations_and_codec() -> None:
    output = outputs.parse_output(
        "type=oci,dest=x,annotation.a=1,annotation-manifest-descriptor[linux/amd64].b.c=2,compression=uncompressed"
    )
    assert outputs.output_annotations(output) == {"a": "1", "manifest-descriptor[linux/amd64]:b.c": "2"}
    assert outputs.compression(output, "gzip") == "none"
    assert outputs.compression(Output(type="oci"), "zstd") == "zstd"
