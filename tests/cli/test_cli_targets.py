"""`--target` several times: what -t and -o then mean, and `--step-weight`."""

from __future__ import annotations

import pytest

from arkwright.build.request import BuildTarget, StepWeight
from arkwright.cli.targets import refuse_several, targets
from arkwright.cli.weights import step_weights
from arkwright.diagnostics.errors import UsageError
from arkwright.exporters.base import Output

IMAGE = Output(type="image")


def found(
    *wanted: str, t: tuple[str, ...] = (), o: tuple[str, ...] = (), push: bool = False, load: bool = False
) -> tuple[BuildTarget, ...]:
    return targets(wanted, t, o, push=push, load=load)


def test_one_target_takes_everything() -> None:
    assert found() == (BuildTarget(target="", outputs=(IMAGE,)),)
    assert found("a", "a", t=("x", "a=y"), o=("out",)) == (
        BuildTarget(
            target="a",
            names=("docker.io/library/x:latest", "docker.io/library/y:latest"),
            outputs=(Output(type="local", dest="out"),),
        ),
    )


def test_several_targets_have_names_and_outputs_of_their_own() -> None:
    one, two = found(
        "a", "b", t=("a=r.example/a", "b=r.example/b:2"), o=("type=oci,dest=a.tar,target=a", "b-files,target=b"),
        push=True,
    )  # fmt: skip
    assert one == BuildTarget(
        target="a",
        names=("r.example/a:latest",),
        outputs=(Output(type="oci", dest="a.tar"), Output(type="registry")),
    )
    assert two == BuildTarget(
        target="b",
        names=("r.example/b:2",),
        outputs=(Output(type="local", dest="b-files"), Output(type="registry")),
    )
    quoted = found("a", "b", o=('target=b,type=oci,"dest=x,y"', "type=image"))
    assert quoted[1].outputs == (Output(type="oci", dest="x,y"), IMAGE)
    assert quoted[0].outputs == (IMAGE,)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"t": ("app",)}, "ambiguous-target"),
        ({"o": ("out",)}, "ambiguous-target"),
        ({"o": ("type=oci,dest=x.tar",)}, "ambiguous-target"),
        ({"o": ("type=image,name=x",)}, "ambiguous-target"),
        ({"o": ("-",)}, "ambiguous-target"),
        ({"t": ("c=app",)}, "invalid-option-value"),
        ({"o": ("out,target=c",)}, "invalid-option-value"),
        ({"t": ("a=app",), "push": True}, "conflicting-options"),
    ],
)
def test_what_could_be_meant_for_two_is_refused(options: dict[str, object], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        found("a", "b", **options)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_what_is_made_for_one_target() -> None:
    refuse_several("--iidfile", ("a", "a"), "")
    with pytest.raises(UsageError) as caught:
        refuse_several("--iidfile", ("a", "b"), "")
    assert caught.value.code == "ambiguous-target"


def test_step_weights() -> None:
    assert step_weights(()) == {}
    assert step_weights(("2", "Build=0.5:1g", "build=4:512m")) == {
        "": StepWeight(cpus=2.0),
        "build": StepWeight(cpus=4.0, memory=512 << 20),
    }


@pytest.mark.parametrize("text", ["", "x", "build=", "-1", "1:", "1:x", "nan", "99999"])
def test_what_is_no_weight(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        step_weights((text,))
    assert caught.value.code == "invalid-option-value"
