"""`arkwright bootstrap`: which maker a name asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from arkwright.bootstrap import busybox, debian
from arkwright.diagnostics.errors import UserError
from arkwright.oci.descriptor import Descriptor
from arkwright.oci.reference import Reference, parse_reference
from arkwright.store.store import Store


def bootstrap(
    name: str,
    store_root_path: str,
    *,
    variant: str = "",
    mirror: str = "",
    include: Sequence[str] = (),
    image_name: str = "",
    report: Callable[[str], None] | None = None,
) -> tuple[Reference, Descriptor]:
    """Make the base image `name` (`debian:bookworm`, `busybox` …) in the store, named `image_name`
    or as the distribution's own image.

    Raises what `bootstrap.debian` and `bootstrap.busybox` raise, and `UserError`
    `invalid-bootstrap-option`.
    """
    reference = parse_reference(image_name or name)
    if parse_reference(name).familiar().partition(":")[0] == "busybox":
        if variant or mirror or include:
            raise UserError.of(
                "invalid-bootstrap-option", "busybox has no variant, mirror or packages to choose"
            )
        with Store.open(store_root_path) as store:
            return reference, busybox.bootstrap(reference, store=store)
    with Store.open(store_root_path) as store:
        made = debian.bootstrap(
            name,
            store=store,
            variant=variant or "minbase",
            mirror=mirror or None,
            include=include,
            reference=reference,
            report=report,
        )
        return reference, made
