"""Running a generator of package lists over an image, as a build whose only step that is."""

from __future__ import annotations

from collections.abc import Mapping

from arkwright.attest.sbom import generator
from arkwright.attest.sbom.generator import Scan
from arkwright.build.compile import Compiled
from arkwright.build.containers import pinned_image
from arkwright.build.contexts import Contexts
from arkwright.build.means import Means
from arkwright.build.request import BuildRequest
from arkwright.build.session import SessionInputs
from arkwright.build.settled import Outcomes
from arkwright.events.stream import EventStream
from arkwright.frontends.base import FrontendImage
from arkwright.layer.profile import CONSTANT_EPOCH
from arkwright.oci import config as image_config
from arkwright.oci.config import ImageConfig
from arkwright.oci.platform import Platform, host_platform


def scan(
    store_root_path: str, image: str, digest: str, platform: Platform, request: BuildRequest, session: SessionInputs,
    stream: EventStream, *, parameters: Mapping[str, str], network: str = "none",
) -> tuple[Scan, ...]:  # fmt: skip
    """Have the generator `image` look at the image of the store whose manifest has the digest.

    `platform` is that of the latter; the generator's is the host's.     The calling process must have one thread. Raises what a build raises, `UserError` `no-command`
    and `invalid-generator-output`.
    """
    found: list[Scan] = []

    def compiled(request: BuildRequest, means: Means) -> Compiled:
        host = host_platform()
        tool, pinned = pinned_image(image, host, means, pull=request.pull)
        tree, _ = pinned_image(digest, platform, means)
        state = generator.scanning(
            tool, image_config.parse(pinned.config), tree, {}, name=image, parameters=parameters, network=network
        )  # fmt: skip
        target = FrontendImage(
            platform=host, definition=state.marshal(),
            config=ImageConfig(architecture=host.architecture, os=host.os),
        )  # fmt: skip
        return Compiled(images=(target,), counts=(1,), contexts=Contexts(), epoch=CONSTANT_EPOCH, done=done)

    def done(means: Means, outcomes: Outcomes) -> None:
        # Its image was assembled, so each layer has a blob; it is here as long as the store is open.
        records = [means.layers.get(layer) for layer in outcomes.layers[0]]
        blobs = [
            next(blob for blob in record.blobs.values() if means.store.content.has(blob.digest))
            for record in records
            if record is not None
        ]
        found.extend(generator.scans(means.store, blobs, image))

    from arkwright.build.run import build

    build(request, session, stream, store_root_path, compiled)
    return tuple(found)
