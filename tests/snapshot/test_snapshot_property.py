"""Random work on trees: the tiers agree, and a diff applied gives the tree back."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshot_suite import OLD_NS, age, base, snapshot_of

from arkwright.layer.profile import CONSTANT_NS
from arkwright.layer.stamps import Stamps
from arkwright.layer.tar_write import write_tar
from arkwright.linux import mounts
from arkwright.snapshot.base import Layer, Snapshotter
from arkwright.snapshot.copy import CopySnapshotter
from arkwright.snapshot.overlay import OverlaySnapshotter
from arkwright.store.store import Store

Step = tuple[object, ...]

PATHS = ("a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "dir", "dir/a", "dir/sub", "dir/sub/c", "etc/conf",
         "linked", "linked/x", "linked/y", "to-dir")  # fmt: skip
TEXTS = ("", "one", "two", "same", "a")
paths = st.sampled_from(PATHS)

steps = st.one_of(
    st.tuples(st.just("write"), paths, st.sampled_from(TEXTS)),
    st.tuples(st.just("append"), paths, st.sampled_from(TEXTS)),
    st.tuples(st.just("reopen"), paths),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("remake"), paths),
    st.tuples(st.just("symlink"), paths, st.sampled_from(("a", "/dir", "../etc"))),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("rename"), paths, paths),
    st.tuples(st.just("chmod"), paths, st.sampled_from((0o600, 0o644, 0o755, 0o4755))),
    st.tuples(st.just("chown"), paths, st.sampled_from((0, 5))),
    st.tuples(st.just("xattr"), paths, st.sampled_from((b"", b"v"))),
    st.tuples(st.just("unxattr"), paths),
    st.tuples(st.just("utime"), paths),
    st.tuples(st.just("fifo"), paths),
)
layers_of_steps = st.lists(st.lists(steps, max_size=8), min_size=1, max_size=3)


def perform(root: Path, step: Step) -> None:
    """Do one thing as a program would; what cannot be done is not done."""
    verb, path, *rest = step
    place = root / str(path)
    with contextlib.suppress(OSError):
        _VERBS[str(verb)](place, *(root / str(item) if verb in ("link", "rename") else item for item in rest))


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        os.unlink(place)


def _remake(place: Path) -> None:
    _remove(place)
    os.mkdir(place)


def _write(place: Path, text: str) -> None:
    if not place.is_symlink() and (place.is_file() or not place.exists()):
        place.write_text(text)


def _append(place: Path, text: str) -> None:
    if place.is_file() and not place.is_symlink():
        with open(place, "a") as file:
            file.write(text)


def _reopen(place: Path) -> None:
    if place.is_file() and not place.is_symlink():
        with open(place, "r+b"):
            pass


def _rename(place: Path, target: Path) -> None:
    # Overlay has no rename of directories from below; programs copy then.
    if not place.is_dir() or place.is_symlink():
        os.rename(place, target)


def _link(place: Path, target: Path) -> None:
    os.link(place, target, follow_symlinks=False)


def _unless_link(change: Callable[..., None]) -> Callable[..., None]:
    def careful(place: Path, *values: object) -> None:
        if not place.is_symlink():
            change(place, *values)

    return careful


_VERBS: dict[str, Callable[..., None]] = {
    "write": _write,
    "append": _append,
    "reopen": _reopen,
    "mkdir": os.mkdir,
    "remove": _remove,
    "remake": _remake,
    "symlink": lambda place, target: os.symlink(target, place),
    "link": _link,
    "rename": _rename,
    "chmod": _unless_link(os.chmod),
    "chown": lambda place, number: os.chown(place, number, number, follow_symlinks=False),
    "xattr": _unless_link(lambda place, value: os.setxattr(place, "user.x", value)),
    "unxattr": _unless_link(lambda place: os.removexattr(place, "user.x")),
    "utime": lambda place: os.utime(place, ns=(OLD_NS, OLD_NS), follow_symlinks=False),
    "fifo": os.mkfifo,
}


def build(snapshotter: Snapshotter, work: list[list[Step]], on: Sequence[Layer] = ()) -> list[Layer]:
    """A base, and one layer per list of steps; times that steps made become one, as export does. What is on
    already is not made again."""
    layers = list(on)
    for number in range(len(on) - 1, len(work)):
        active = snapshotter.prepare([layer.id for layer in layers])
        root = Path(active.root)
        if number < 0:
            base(root)
        else:
            for step in work[number]:
                perform(root, step)
            settle_times(root, number)
        layers.append(active.commit())
    return layers


def settle_times(root: Path, number: int) -> None:
    """Clocks differ between two runs: everything that is not old gets the time of its layer."""
    then = OLD_NS + (number + 1) * 1_000_000_000
    for directory, directories, files in os.walk(root, topdown=False):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            if os.lstat(path).st_mtime_ns > OLD_NS + 100 * 1_000_000_000:
                os.utime(path, ns=(then, then), follow_symlinks=False)


def tar_of(snapshotter: Snapshotter, layer: Layer, *, mtime_ns: int | None = None) -> bytes:
    sink = io.BytesIO()
    write_tar(snapshotter.diff(layer), sink.write, mtime_ns=mtime_ns)
    return sink.getvalue()


def tree_of(snapshotter: Snapshotter, layers: list[Layer]) -> list[tuple[object, ...]]:
    with snapshotter.view([layer.id for layer in layers]) as path:
        return list(snapshot_of(path))


def apply_all(snapshotter: Snapshotter, tars: list[bytes], prefix: list[Layer]) -> list[Layer]:
    layers = list(prefix)
    for tar in tars[len(prefix) :]:
        layer = Layer(id=os.urandom(16).hex(), origin="applied")
        layers.append(snapshotter.apply([below.id for below in layers], layer, io.BytesIO(tar)))
    return layers


def check_one(overlay: Snapshotter, copy: Snapshotter, work: list[list[Step]]) -> None:
    made = {snapshotter: build(snapshotter, work) for snapshotter in (overlay, copy)}
    tars = [tar_of(overlay, layer) for layer in made[overlay]]
    assert [tar_of(copy, layer) for layer in made[copy]] == tars
    tree = tree_of(overlay, made[overlay])
    assert tree_of(copy, made[copy]) == tree
    for snapshotter in (overlay, copy):
        # Every mix of a local prefix and imported layers on top.
        for kept in range(len(tars)):
            layers = apply_all(snapshotter, tars, made[snapshotter][:kept])
            assert tree_of(snapshotter, layers) == tree, f"{snapshotter.name}, {kept} local layers"
            assert [tar_of(snapshotter, layer) for layer in layers] == tars
    # Either tier reads what the other wrote.
    assert tree_of(copy, made[overlay]) == tree
    assert tree_of(overlay, made[copy]) == tree


def check_times(overlay: Snapshotter, copy: Snapshotter, work: list[list[Step]]) -> None:
    """Work on layers that came back with one constant time gives what it gives on those made here."""
    made = build(overlay, work)
    tars = [tar_of(overlay, layer, mtime_ns=CONSTANT_NS) for layer in made]
    for snapshotter in (overlay, copy):
        for kept in range(1, len(tars)):
            layers = build(snapshotter, work, apply_all(snapshotter, tars[:kept], []))
            assert [tar_of(snapshotter, layer, mtime_ns=CONSTANT_NS) for layer in layers] == tars


@pytest.mark.parametrize("kind", ["root", "rootless"])
@pytest.mark.parametrize(("rule", "check_one"), [("keep", check_one), ("constant", check_times)])
def test_tiers_agree_and_round_trip(
    make_place, kind: str, rule: str, check_one: Callable[[Snapshotter, Snapshotter, list[list[Step]]], None]
) -> None:
    examples = int(os.environ.get("ARKWRIGHT_EXAMPLES", "60"))

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(layers_of_steps)
    def check(work: list[list[Step]]) -> None:
        os.mkdir("store")
        mounts.tmpfs("store")
        try:
            with Store.open("store") as store:
                kinds = (OverlaySnapshotter, CopySnapshotter)
                overlay, copy = (kind(store, sync=lambda: None, stamps=Stamps(rule=rule)) for kind in kinds)
                check_one(overlay, copy, work)
        finally:
            mounts.unmount("store")
            os.rmdir("store")

    def inside(path: str) -> None:
        os.chdir(path)
        check()
        os.chdir("/")

    make_place(kind).run(inside)


def test_age_leaves_nothing_young(tmp_path: Path) -> None:
    base(tmp_path)
    age(tmp_path)
    assert {os.lstat(path).st_mtime_ns for path in tmp_path.rglob("*")} == {OLD_NS}
