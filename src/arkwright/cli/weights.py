"""`--step-weight`: how much of the host a step takes."""

from __future__ import annotations

from arkwright.build.request import StepWeight
from arkwright.cli import values

_FORM = "write CPUS, CPUS:MEMORY or STAGE=CPUS:MEMORY, such as build=4:2g"


def step_weights(texts: tuple[str, ...]) -> dict[str, StepWeight]:
    """`[STAGE=]CPUS[:MEMORY]` by stage (lower-cased), `""` for all others; the last of a stage wins.

    Raises `UsageError` `invalid-option-value`.
    """
    return dict(_weight(text) for text in texts)


def _weight(text: str) -> tuple[str, StepWeight]:
    stage, _, amount = text.rpartition("=")
    cpus_text, colon, memory_text = amount.partition(":")
    try:
        cpus = float(cpus_text)
    except ValueError:
        values.invalid("--step-weight", text, f"{cpus_text!r} is not a number of CPUs", _FORM)
    if not 0 <= cpus <= 4096:
        values.invalid("--step-weight", text, "the number of CPUs is between 0 and 4096", _FORM)
    memory = values.size("--step-weight", memory_text) if colon else 0
    return stage.lower(), StepWeight(cpus=cpus, memory=memory)
