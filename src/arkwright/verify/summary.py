"""What a verification is put down as: an in-toto statement with SLSA's verification summary
(slsa.dev/verification_summary/v1), and the error that a difference is."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from arkwright import __version__
from arkwright.attest.statement import ResourceDescriptor, Statement, digest_set
from arkwright.diagnostics.errors import Denied, Diagnostic
from arkwright.verify.recorded import Recorded
from arkwright.verify.report import Report

PREDICATE = "https://slsa.dev/verification_summary/v1"
VERIFIER = "https://arkwright.invalid/verifiers/rebuild"
POLICY = "https://arkwright.invalid/policies/reproduced/v1"
# A level of our own, as the specification allows: SLSA has none that says reproduced.
LEVEL = "ARKWRIGHT_REPRODUCED"
_POLICY_TEXT = "Built again from exactly the recorded inputs in another world, the image has equal digests."


def summary(digest: str, name: str, recorded: Recorded, now_s: float | None = None) -> Statement:
    """The statement that an image was built again with the same digest, at `now_s` seconds since 1970."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
    predicate: dict[str, Any] = {
        "verifier": {"id": VERIFIER, "version": {"arkwright": __version__}},
        "timeVerified": moment,
        "resourceUri": name or f"pkg:oci/image@{digest.replace(':', '%3A')}",
        "policy": {"uri": POLICY, "digest": {"sha256": _sha256(_POLICY_TEXT.encode())}},
        "inputAttestations": [
            {"uri": "https://slsa.dev/provenance/v1", "digest": {"sha256": _sha256(recorded.data)}}
        ],
        "verificationResult": "PASSED",
        "verifiedLevels": [LEVEL],
        "slsaVersion": "1.0",
    }
    return Statement(
        subject=(ResourceDescriptor(name=name, digest=digest_set(digest)),),
        predicate_type=PREDICATE,
        predicate=predicate,
    )


def refusal(report: Report) -> Denied:
    """What a report says as an error, one diagnostic for each kind of difference.

    The codes: `input-mismatch`, `layer-not-reproduced`, `config-not-reproduced`, `manifest-not-reproduced`.
    """
    found = list(_diagnostics(report))
    error = Denied(*found, details={"rule": found[0].code, "evidence": found[0].message})
    return error


def _diagnostics(report: Report) -> Iterator[Diagnostic]:
    for moved in report.moved_inputs:
        yield Diagnostic(
            code="input-mismatch", message=f"an input is not the recorded one: {moved}",
            hint="what differs in the image follows from it; give the recorded input, or lock it: `arkwright lock`",
        )  # fmt: skip
    if report.identical:
        return
    layers = [layer for image in report.images for layer in image.layers if not layer.packing]
    if layers:
        files = sum(len(layer.files) + layer.left_out for layer in layers)
        rules = sorted({cause.rule for file in report.files() for cause in file.causes})
        yield Diagnostic(
            code="layer-not-reproduced", message=f"{_count(len(layers), 'layer')} and {_count(files, 'file')} differ",
            notes=(f"by rule: {', '.join(rules)}",) if rules else (),
        )  # fmt: skip
    fields = [
        change.field for image in report.images for change in image.config if not _follows(change.field)
    ]
    if fields:
        yield Diagnostic(
            code="config-not-reproduced", message=f"fields of the config differ: {', '.join(fields[:8])}"
        )
    if not layers and not fields:
        yield Diagnostic(
            code="manifest-not-reproduced", message=_of_manifest(report),
            hint="the same version of the compressor makes the same bytes" if _packing(report) else None,
        )  # fmt: skip


def _of_manifest(report: Report) -> str:
    changes = [*report.index, *(change for image in report.images for change in image.manifest)]
    if changes:
        return f"fields of the manifest or index differ: {', '.join(change.field for change in changes[:8])}"
    if _packing(report):
        return "the files of all layers are equal, and compressed differently"
    return f"the image {report.old} was not built again: the rebuild is {report.new}"


def _packing(report: Report) -> bool:
    return any(layer.packing for image in report.images for layer in image.layers)


def _follows(field: str) -> bool:
    """Whether a field of the config differs because layers do."""
    return field.startswith("rootfs")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
