"""Why files differ: rules over names and over what differs in texts, each with its known cure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from arkwright.verify.report import Cause


class Window(msgspec.Struct, frozen=True):
    """When the two builds ran, in seconds since 1970: from the beginning of the first to the end of the second."""

    start: float
    end: float

    def holds(self, number: float) -> bool:
        """Whether a number of seconds is a moment of the builds, give or take a day."""
        return self.start - 86_400 <= number <= self.end + 86_400


class _Rule(NamedTuple):
    why: str
    cure: str


RULES: dict[str, _Rule] = {
    "timestamp": _Rule("it holds the time of the build", "take the time from SOURCE_DATE_EPOCH, which steps have, or leave it out"),
    "gzip-time": _Rule("gzip wrote the time into its header", "gzip -n, or pipe into gzip instead of naming a file"),
    "zip-time": _Rule("the archive holds the times of its members", "give the files a constant time before packing (find -newermt … | touch -d @$SOURCE_DATE_EPOCH), or pack with a tool that knows SOURCE_DATE_EPOCH (jar --date, strip-nondeterminism)"),
    "tar-metadata": _Rule("the archive holds times or owners of its members", "tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 --numeric-owner"),
    "ar-metadata": _Rule("the library holds times or owners of its members", "ar and ranlib with -D (ARFLAGS=Drvc)"),
    "archive-order": _Rule("the members of the archive are in another order", "sort the names before packing: tar --sort=name, zip -X@ with sorted input"),
    "compressor": _Rule("the content is equal, packed by another compressor or level", "use one version of the tool, and a fixed number of threads"),
    "pyc-time": _Rule("Python bytecode holds the time of its source", "python -m compileall --invalidation-mode checked-hash, or PYTHONDONTWRITEBYTECODE=1"),
    "pyc-content": _Rule("Python bytecode of another order of sets or references", "PYTHONHASHSEED=0 while compiling, or leave bytecode out with PYTHONDONTWRITEBYTECODE=1"),
    "build-path": _Rule("it holds the name of a temporary place", "build in a fixed directory rather than one of mktemp; for compilers -ffile-prefix-map, -trimpath"),
    "temporary-file": _Rule("a temporary file was left behind", "rm it in the same RUN, or mount the place: RUN --mount=type=tmpfs,target=/tmp"),
    "uuid": _Rule("it holds a random identifier", "make it from the content (uuid5), give it as an argument, or make it when the container starts"),
    "random": _Rule("it holds random characters", "seed the generator, or make it when the container starts"),
    "key-material": _Rule("it is a key or certificate that the build made", "no key belongs into an image: make it when the container starts, or bring it as a secret"),
    "hash-order": _Rule("the same lines or fields are in another order", "sort them: PYTHONHASHSEED=0, PERL_HASH_SEED=0, json with sorted keys, LC_ALL=C sort"),
    "parallel-order": _Rule("the order in which parallel jobs ended", "run them one after the other (make -j1), or sort what they write"),
    "locale": _Rule("it depends on the language of the environment", "ENV LC_ALL=C.UTF-8"),
    "process-id": _Rule("it holds the number of a process", "leave such files out of the image: rm them in the same RUN"),
    "hostname": _Rule("it holds the name of the host", "do not record it; steps have a fixed one"),
    "host-state": _Rule(
        "it shows memory, disks or inodes of the machine", "do not record what the machine is like just now"
    ),
    "cpu-count": _Rule("it depends on the number of cores", "give the number yourself: make -j2, GOMAXPROCS, an ARG"),
    "address": _Rule("it holds an address in memory", "do not print addresses; setarch -R for programs that must"),
    "build-id": _Rule("a program has another identifier of its build", "link with -Wl,--build-id=sha1 of equal input, or go build -buildid="),
    "elf-code": _Rule("the compiler made other code", "look for __DATE__, random seeds (-frandom-seed), profile data and parallel link-time optimisation"),
    "log": _Rule("it is a log of the build", "rm it in the RUN that writes it; `--scrub` removes those of apt, dpkg and ldconfig"),
    "linker-cache": _Rule("ldconfig's cache holds inodes and times of libraries", "rm /var/cache/ldconfig/aux-cache; `--scrub` does"),
    "package-index": _Rule("the package index of another moment", "rm -rf /var/lib/apt/lists/* in the same RUN, or use a snapshot archive with pinned versions"),
    "tool-cache": _Rule("a tool keeps its own cache", "rm it in the same RUN, or put it into a cache mount: RUN --mount=type=cache,target=…"),
    "font-cache": _Rule("fontconfig's cache holds times of directories", "rm -rf /var/cache/fontconfig/*: it is made again when it is needed"),
    "man-db": _Rule("the index of manual pages holds times", "rm -rf /var/cache/man/*, or install without manual pages"),
    "password-day": _Rule("the day on which a password was changed", "useradd and passwd take it from SOURCE_DATE_EPOCH (shadow 4.15 and later); else chage -d 2000-01-01"),
    "machine-id": _Rule("the identity of a machine", ": > /etc/machine-id in the same RUN; systemd makes one at the first start"),
    "keystore": _Rule("a Java key store holds the times of its entries", "make it in a later RUN with keytool -startdate, or use the PEM bundle"),
    "git-state": _Rule("the repository's own files hold times and inodes", "leave .git out with .dockerignore, or rm -rf .git in the same RUN"),
    "database": _Rule("a database counts its changes", "dump it to text and load it when the container starts, or VACUUM it into a new file"),
    "context-times": _Rule("it depends on the times of files in the context", "touch the files first (RUN find … -exec touch -d @$SOURCE_DATE_EPOCH), or use a tool that goes by content"),
    "other-input": _Rule("what came from the network, or from another input, was not the same", "pin it by a digest or a version: `arkwright lock`, ADD --checksum, versions of packages"),
    "attributes": _Rule("its mode, owner or attributes depend on the build's environment", "set them in the RUN: umask 022, chmod, chown, install -m"),
    "unknown": _Rule("no rule fits", "look at the difference; `arkwright check-reproducible` says which steps do it again"),
}  # fmt: skip

# Paths that are known by their names, the first that fits.
_PLACES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (rule, re.compile(pattern))
    for rule, pattern in (
        ("linker-cache", r"/var/cache/ldconfig/|/etc/ld\.so\.cache$"),
        ("log", r"/var/log/|\.log$"),
        ("package-index", r"/var/lib/apt/lists/|/var/cache/apt/|/var/cache/apk/|/var/lib/apk/.*\.tar\.gz$"),
        ("font-cache", r"/var/cache/fontconfig/|/\.uuid$"),
        ("man-db", r"/var/cache/man/"),
        ("password-day", r"/etc/g?shadow-?$"),
        ("machine-id", r"/etc/machine-id$|/var/lib/dbus/machine-id$"),
        ("keystore", r"/cacerts$|\.(?:jks|keystore|p12)$"),
        ("key-material", r"/etc/ssh/ssh_host_|/ssl-cert-snakeoil\.|\.(?:pem|key|crt)$"),
        ("git-state", r"/\.git/"),
        ("tool-cache", r"/\.cache/|/\.npm/|/\.cargo/registry/|/go/pkg/mod/cache/|/\.gradle/|/\.m2/"),
        ("temporary-file", r"^/(?:var/)?tmp/"),
        ("database", r"\.(?:sqlite3?|db)$"),
    )
)
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_TIME = re.compile(
    rf"\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}:\d\d(?::\d\d)?|\d{{1,2}} {_MONTH}|{_MONTH} +\d{{1,2}}|\d{{8}}T?\d{{4,6}}"
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_PLACE = re.compile(
    r"/(?:tmp|var/tmp|dev/shm|build|root/\.cache)/[\w.+-]+|tmp[.\w]*\.[A-Za-z0-9]{6,}|tmp[a-z0-9_]{8}"
)
_ADDRESS = re.compile(r"0x[0-9a-f]{8,16}")
_LOCALE = re.compile(r"\b(?:LANG|LANGUAGE|LC_[A-Z]+)=|\b[a-z]{2}_[A-Z]{2}(?:\.UTF-8)?\b")
_RANDOM = re.compile(r"[A-Za-z0-9+/_=-]{6,}")
_HOST = re.compile(r"\bhost(?:name)?\b", re.IGNORECASE)
_STATE = re.compile(
    r"\b(?:Mem|Swap)(?:Free|Available|Total)?:|\d+% /|\binodes?\b|load average|\bMemTotal", re.IGNORECASE
)
_CORES = re.compile(r"cpu|core|nproc|jobs?|threads?|parallel|processors?|-j", re.IGNORECASE)
_PID = re.compile(r"\bpid\b|process|/proc/", re.IGNORECASE)
_COUNT = re.compile(r"(?:-j|--jobs=)?\d{1,4}")
# How programs mark what their jobs say.
_JOB = re.compile(r"\[\d+(?:/\d+)?\]|\bjob\b|^#\d+ |\bthread\b|\bworker\b", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")
_SHORT_NUMBER = 7


def cause(rule: str, evidence: str = "") -> Cause:
    """A cause by its rule. Raises `KeyError`."""
    found = RULES[rule]
    return Cause(rule=rule, why=found.why, cure=found.cure, evidence=evidence[:200])


def by_place(path: str) -> Iterator[Cause]:
    """What the name of a file says by itself."""
    for rule, pattern in _PLACES:
        if pattern.search(path):
            yield cause(rule, path)
            return


def by_text(path: str, old: str, new: str, window: Window) -> Iterator[Cause]:
    """What differs in two texts says: each rule once."""
    before, after = old.splitlines(), new.splitlines()
    if before != after and sorted(before) == sorted(after):
        numbered = all(_JOB.search(line) for line in before)
        yield cause("parallel-order" if numbered else "hash-order", _first_difference(before, after))
        return
    if _same_document(old, new):
        yield cause("hash-order", "the documents are equal but for the order of their fields")
        return
    seen: set[str] = set()
    for left, right in _changed_lines(before, after):
        for rule in _of_line(path, left, right, window):
            if rule not in seen:
                seen.add(rule)
                yield cause(rule, f"{left.strip()[:80]} | {right.strip()[:80]}")


def _of_line(path: str, left: str, right: str, window: Window) -> Iterator[str]:
    """The rule for how two lines differ: the most telling one."""
    changed = [(one, other) for one, other in _tokens(left, right) if one != other]
    texts = [text for pair in changed for text in pair]
    whole = f"{path} {left}"
    tests = (
        ("key-material", "-----BEGIN" in left or (len(texts) > 1 and all(len(text) > 60 for text in texts))),
        ("uuid", _each(_UUID, texts)),
        ("timestamp", _each(_TIME, texts) or _moments(texts, window)),
        ("build-path", _each(_PLACE, texts)),
        ("address", _each(_ADDRESS, texts)),
        ("locale", bool(_LOCALE.search(left) and _LOCALE.search(right))),
        ("host-state", bool(_STATE.search(whole)) and bool(texts)),
        ("process-id", bool(_PID.search(whole)) and _numbers(texts)),
        ("cpu-count", bool(_CORES.search(whole)) and bool(texts) and all(map(_COUNT.fullmatch, texts))),
        ("hostname", bool(_HOST.search(whole)) and bool(texts)),
        ("random", bool(texts) and all(_RANDOM.fullmatch(text) for text in texts) and _alike(changed)),
        ("random", _numbers(texts)),
    )
    for rule, fits in tests:
        if fits:
            yield rule
            return


def _tokens(left: str, right: str) -> list[tuple[str, str]]:
    """Words side by side, when both lines have as many; else the lines without what they begin and end alike with."""
    before, after = re.findall(r"[^\s\"',;=<>()\[\]{}]+", left), re.findall(r"[^\s\"',;=<>()\[\]{}]+", right)
    if len(before) == len(after):
        return list(zip(before, after, strict=True))
    return [(left.strip(), right.strip())]


def _changed_lines(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of lines that stand in the same place; of texts with different numbers of lines, what was replaced."""
    if len(before) == len(after):
        yield from ((one, other) for one, other in zip(before, after, strict=True) if one != other)
        return
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    yield from zip(before[head : head + 50], after[head : head + 50], strict=False)


def _first_difference(before: Sequence[str], after: Sequence[str]) -> str:
    return next(
        (f"{one[:80]} | {other[:80]}" for one, other in zip(before, after, strict=True) if one != other), ""
    )


def _same_document(old: str, new: str) -> bool:
    if not old.lstrip().startswith(("{", "[")):
        return False
    try:
        return bool(msgspec.json.decode(old) == msgspec.json.decode(new))
    except (msgspec.MsgspecError, RecursionError):
        return False


def _each(pattern: re.Pattern[str], texts: Sequence[str]) -> bool:
    return bool(texts) and all(pattern.search(text) for text in texts)


def _moments(texts: Sequence[str], window: Window) -> bool:
    """Whether all are moments of the builds: seconds, milliseconds or nanoseconds since 1970."""
    return bool(texts) and all(
        (found := _NUMBER.search(text)) is not None
        and any(window.holds(int(found[0][:19]) / unit) for unit in (1, 1_000, 1_000_000, 1_000_000_000))
        for text in texts
    )


def _numbers(texts: Sequence[str]) -> bool:
    return bool(texts) and all(text.isdecimal() and len(text) <= _SHORT_NUMBER for text in texts)


def _alike(changed: Sequence[tuple[str, str]]) -> bool:
    """Whether words differ but are of one length, as random ones are; words of a language seldom are."""
    return all(
        len(one) == len(other) and (len(one) >= 12 or _NUMBER.search(one + other)) for one, other in changed
    )
