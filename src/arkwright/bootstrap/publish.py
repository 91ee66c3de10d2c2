"""A rootfs becomes a named image of the local store: one layer, a config, a manifest."""

from __future__ import annotations

from collections.abc import Iterable

from arkwright.layer.entry import Change
from arkwright.layer.export import export_layer
from arkwright.layer.profile import CONSTANT_EPOCH, profile_for
from arkwright.oci import config as image_config
from arkwright.oci import manifest as image_manifest
from arkwright.oci.config import Execution, History, ImageConfig, RootFS
from arkwright.oci.descriptor import CONFIG, MANIFEST, Descriptor
from arkwright.oci.platform import Platform, host_platform
from arkwright.oci.reference import Reference
from arkwright.store.store import Store

PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CREATED = "2000-01-01T00:00:00Z"
assert CONSTANT_EPOCH == 946684800


def publish(
    store: Store,
    reference: Reference,
    changes: Iterable[Change],
    *,
    cmd: tuple[str, ...],
    created_by: str,
    platform: Platform | None = None,
) -> Descriptor:
    """Write the image and give it its name; returns the manifest's descriptor.

    Every byte is a function of the arguments: times are the constant epoch.
    """
    platform = platform or host_platform()
    diff_id, layer = export_layer(changes, store.content, profile_for("gzip"))
    config = ImageConfig(
        created=CREATED,
        architecture=platform.architecture,
        variant=platform.variant,
        os=platform.os,
        config=Execution(env=(PATH_ENV,), cmd=cmd),
        rootfs=RootFS(diff_ids=(diff_id,)),
        history=(History(created=CREATED, created_by=created_by),),
    )
    config_bytes = image_config.encode(config)
    manifest = image_manifest.Manifest(
        schema_version=2,
        media_type=MANIFEST,
        config=Descriptor(
            media_type=CONFIG, digest=store.content.write(config_bytes), size=len(config_bytes)
        ),
        layers=(layer,),
    )
    manifest_bytes = image_manifest.encode(manifest)
    descriptor = Descriptor(
        media_type=MANIFEST, digest=store.content.write(manifest_bytes), size=len(manifest_bytes)
    )
    store.names.set(str(reference), descriptor)
    return descriptor
