"""Manifests of packages with any damage: what cannot be read is refused by its name, and nothing else happens."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from arkwright.attest.sbom.collect import SCANNERS
from arkwright.attest.sbom.model import Distribution

DAMAGED = 400
SEEDS: dict[str, dict[str, str]] = {
    "dpkg": {
        "var/lib/dpkg/status": "Package: a\nStatus: install ok installed\nVersion: 1\nMaintainer: M\n <m@x>\n\nPackage: b\n",
        "var/lib/dpkg/info/a.list": "/.\n/etc\n/etc/a\n",
        "usr/share/doc/a/copyright": "Format: copyright-format/1.0/\n\nLicense: MIT\n text\n",
    },
    "apk": {"lib/apk/db/installed": "C:Q1x=\nP:musl\nV:1.2.3-r4\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:ld\n\n"},
    "python": {
        "a/x-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: x\nVersion: 1\nClassifier: License :: OSI :: MIT\n",
        "a/x-1.dist-info/RECORD": 'x.py,sha256=a,1\n"y,z",,\n',
    },
    "node": {
        "node_modules/a/package.json": '{"name":"@s/a","version":"1","license":{"type":"MIT"},"author":{"name":"x"},'
        '"maintainers":[{"name":"y"}],"homepage":null}'
    },
    "gem": {"specifications/r-1.gemspec": 's.name = "r".freeze\n s.version = "1"\n s.licenses = ["MIT"]\n'},
    "composer": {
        "vendor/composer/installed.json": '{"packages":[{"name":"v/x","version":"1","license":["MIT"],'
        '"authors":[{"name":"a"}],"install-path":"../v/x"}]}'
    },
}
VALUES = (None, 1, 1.5, [], {}, "", [1], [None], {"name": 1}, {"type": []}, True, "x", "a/b", "../../..", "é")


def changed(source: random.Random, value: Any) -> Any:
    """The value with something else in one place."""
    if isinstance(value, dict) and value and source.random() < 0.7:
        key = source.choice(list(value))
        return {**value, key: changed(source, value[key])}
    if isinstance(value, list) and value and source.random() < 0.7:
        return [changed(source, value[0]), *value[1:]]
    return source.choice(VALUES)


def damaged(source: random.Random, path: str, text: str) -> bytes:
    if path.endswith(".json") and source.random() < 0.7:
        return json.dumps(changed(source, json.loads(text))).encode()
    data = bytearray(text.encode())
    for _ in range(source.choice((1, 3, 20))):
        at = source.randrange(len(data) + 1)
        more = bytes(
            source.choice((0, 10, 13, 34, 255, 0xC3, 58, source.randrange(256)))
            for _ in range(source.randrange(3))
        )
        data[at : at + source.randrange(3)] = more
    return bytes(data)


@pytest.mark.parametrize("scanner", [one for one in SCANNERS if one.name in SEEDS], ids=lambda one: one.name)
def test_damage_is_refused_or_read(scanner: Any) -> None:
    assert list(
        scanner.scan({path: text.encode() for path, text in SEEDS[scanner.name].items()}, Distribution())
    )
    source = random.Random(scanner.name)
    for _ in range(DAMAGED):
        files = {path: text.encode() for path, text in SEEDS[scanner.name].items()}
        path = source.choice(list(files))
        files[path] = damaged(source, path, SEEDS[scanner.name][path])
        try:
            found = list(scanner.scan(files, Distribution()))
        except ValueError as error:
            assert error.args[1] in files
            continue
        assert all(one.purl.startswith("pkg:") and one.name for one in found)
