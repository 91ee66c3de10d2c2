"""The host's apt sources, and what of them a base image may have."""

from __future__ import annotations

from pathlib import Path

from arkwright.bootstrap import apt_sources

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = f"""\
# The archive.
Types: deb deb-src
URIs: http://one.test/debian
  http://two.test/debian
Suites: bookworm bookworm-updates bookworm-pgdg
Components: main
 contrib
Signed-By: {KEYRING}

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://third.test/debian
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/third.gpg
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://one.test/debian-security bookworm-security main # comment
#deb http://off.test/debian bookworm main
deb-src http://one.test/debian bookworm main
deb http://flat.test/debian ./
deb http://other.test/linux/ubuntu jammy main universe
"""


def write(directory: Path) -> str:
    (directory / "sources.list.d").mkdir()
    (directory / "sources.list").write_text(ONE_LINE)
    (directory / "sources.list.d" / "debian.sources").write_text(DEB822)
    (directory / "sources.list.d" / "old.sources.save").write_text(DEB822)
    return str(directory)


def test_both_formats_give_the_enabled_binary_sources(tmp_path: Path) -> None:
    found = apt_sources.read_sources(write(tmp_path))
    assert [source.uris for source in found] == [
        ("http://one.test/debian-security",),
        ("http://other.test/linux/ubuntu",),
        ("http://one.test/debian", "http://two.test/debian"),
        ("http://third.test/debian",),
    ]
    assert found[0].signed_by == KEYRING
    assert found[2].components == ("main", "contrib")


def test_a_host_without_sources_has_none(tmp_path: Path) -> None:
    assert apt_sources.read_sources(str(tmp_path / "nothing")) == []


def test_only_the_archive_and_its_pockets_pass(tmp_path: Path) -> None:
    sources = apt_sources.read_sources(write(tmp_path))
    found = apt_sources.select(sources, "debian", "bookworm", "bookworm")
    assert [source.suites for source in found] == [("bookworm-security",), ("bookworm", "bookworm-updates")]
    assert all(source.signed_by == KEYRING for source in found)


def test_another_release_comes_from_the_same_archive(tmp_path: Path) -> None:
    sources = apt_sources.read_sources(write(tmp_path))
    found = apt_sources.select(sources, "debian", "trixie", "bookworm")
    assert [source.suites for source in found] == [("trixie-security",), ("trixie", "trixie-updates")]


def test_another_distribution_has_no_sources_here(tmp_path: Path) -> None:
    sources = apt_sources.read_sources(write(tmp_path))
    assert apt_sources.select(sources, "ubuntu", "noble", "bookworm") == []
    assert len(apt_sources.select(sources, "ubuntu", "jammy", "bookworm")) == 1


def test_what_is_rendered_reads_back(tmp_path: Path) -> None:
    sources = apt_sources.select(apt_sources.read_sources(write(tmp_path)), "debian", "bookworm", "bookworm")
    copy = tmp_path / "copy"
    (copy / "sources.list.d").mkdir(parents=True)
    (copy / "sources.list.d" / "debian.sources").write_text(apt_sources.render(sources))
    assert apt_sources.read_sources(str(copy)) == sources
