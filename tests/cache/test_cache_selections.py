"""What copies take from layers is digested once, and forgotten with the layers."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from arkwright.cache.selections import BUCKET, Selections
from arkwright.store.store import Store
from building import Builder, Context

TEXT = "FROM scratch AS made\nCOPY tree /tree\nFROM scratch\nCOPY --from=made /tree/kept /kept\n"


def kept(builder: Builder) -> dict[str, bytes]:
    with closing(sqlite3.connect(f"file:{builder.store}/metadata.db?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT key, value FROM records WHERE bucket = ?", (BUCKET,))
        return {bytes(key).decode(): bytes(value) for key, value in rows}


def test_a_copy_that_is_looked_at_again_reads_no_old_tree(builder: Builder, context: Context) -> None:
    path = context({"tree/kept": "the same in each build", "Dockerfile": TEXT})
    digests = set()
    for number in range(3):
        (path / "tree/changes").write_text(str(number))
        built = builder.build(path)
        digests.add(built.digest)
        # What is copied came out equal: the copy is not run again.
        assert len(built.ran) == (2 if number == 0 else 1)
    assert len(digests) == 1
    found = kept(builder)
    assert len(found) == 3
    assert len(set(found.values())) == 1


def test_clean_up_forgets_what_belongs_to_no_layer(builder: Builder, context: Context) -> None:
    path = context({"tree/kept": "content", "Dockerfile": TEXT})
    builder.build(path)
    (path / "tree/more").write_text("more")
    builder.build(path)
    assert kept(builder)
    builder.run("prune", "--all", "--force")
    assert not kept(builder)


def test_other_layers_and_other_parts_are_other_selections(tmp_path: Path) -> None:
    with Store.open(str(tmp_path)) as store:
        selections = Selections(store.metadata)
        selections.put(("a", "b"), "part", "sha256:1")
        assert selections.get(("a", "b"), "part") == "sha256:1"
        assert selections.get(("b",), "part") is None
        assert selections.get(("a", "b"), "other part") is None
        assert Selections(store.metadata).get(("a", "b"), "part") == "sha256:1"
