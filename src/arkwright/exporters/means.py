"""What exporters work with: the store, and in the worker the trees of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from arkwright.layer.stamps import Stamps
from arkwright.store.store import Store

View = Callable[[Sequence[str]], AbstractContextManager[str]]
"""Layer ids, lowest first, to a read-only tree; the value is its root path."""


class ReportProgress(Protocol):
    """Called with what is being worked on, units done, and units in all (0 when unknown)."""

    def __call__(self, item: str, done: int, total: int) -> None: ...


class ExportMeans(NamedTuple):
    """`view` is None outside the worker. `keep_owner`: files of a local tree get the owners that
    the image gives them (only for real root). `stamps` is the rule for times in tars. `tls_verify` None means as configured."""

    store: Store
    view: View | None = None
    keep_owner: bool = False
    tls_verify: bool | None = None
    stamps: Stamps = Stamps()
    progress: ReportProgress | None = None


class WithMeans:
    """What every exporter is made with."""

    def __init__(self, means: ExportMeans) -> None:
        self._means = means
