"""PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): `length keyword=value\\n`.

Extended attributes are `SCHILY.xattr.NAME` records. As GNU tar does, a name that holds `=` has
`=` and `%` percent-encoded, since a keyword ends at the first `=`.
"""

from __future__ import annotations

import os

from arkwright.layer import faults

XATTR = b"SCHILY.xattr."
_NANOSECONDS = 1_000_000_000

Records = dict[bytes, bytes]


def parse(data: bytes) -> Records:
    """The records of a header; the last of equal keywords counts.

    The offset and length pairs of GNU sparse format 0.0, which repeat, are gathered under
    `GNU.sparse.map`. Raises `invalid-archive`.
    """
    records: Records = {}
    sparse: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        space = data.find(b" ", position, position + 20)
        length = data[position:space] if space > 0 else b""
        if not length.isdigit():
            if not data[position:].strip(b"\0"):
                break
            raise faults.invalid("a PAX record has no length")
        stop = position + int(length)
        equals = data.find(b"=", space + 1, stop)
        if stop > end or equals < 0 or data[stop - 1] != 0x0A:
            raise faults.invalid("a PAX record is malformed")
        key, value = data[space + 1 : equals], data[equals + 1 : stop - 1]
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        else:
            records[key] = value
        position = stop
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def number(value: bytes, keyword: str) -> int:
    """A decimal number. Raises `invalid-archive`."""
    if not value.isdigit() or len(value) > 20:
        raise faults.invalid(f"the PAX value of {keyword} is not a number")
    return int(value)


def text(value: bytes, keyword: str) -> bytes:
    """A name. Raises `invalid-archive` if it holds a NUL."""
    if b"\0" in value:
        raise faults.invalid(f"the PAX value of {keyword} holds a NUL")
    return value


def parse_time(value: bytes) -> int:
    """Seconds with an optional sign and fraction, as nanoseconds. Raises `invalid-archive`."""
    negative = value.startswith(b"-")
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    if not (whole or fraction) or not (whole + fraction).isdigit() or len(whole) > 12:
        raise faults.invalid("a PAX time is not a number")
    total = int(whole or b"0") * _NANOSECONDS + int(fraction[:9].ljust(9, b"0"))
    return -total if negative else total


def format_time(time_ns: int) -> bytes:
    """The shortest exact form of a time."""
    sign = b"-" if time_ns < 0 else b""
    whole, fraction = divmod(abs(time_ns), _NANOSECONDS)
    digits = b".%09d" % fraction if fraction else b""
    return sign + b"%d" % whole + digits.rstrip(b"0")


def xattr_key(name: str) -> bytes:
    """The keyword of an extended attribute."""
    raw = os.fsencode(name)
    if b"=" in raw or b"%3D" in raw or b"%25" in raw:
        raw = raw.replace(b"%", b"%25").replace(b"=", b"%3D")
    return XATTR + raw


def xattr_name(key: bytes) -> str:
    """The inverse of `xattr_key`."""
    return os.fsdecode(key[len(XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%"))


def encode(records: Records) -> bytes:
    """The canonical bytes: records sorted by keyword, lengths as short as they can be."""
    return b"".join(_record(key, records[key]) for key in sorted(records))


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    # One digit more may make the length itself one digit longer.
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
