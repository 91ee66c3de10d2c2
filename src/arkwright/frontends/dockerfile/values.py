"""The small languages inside instructions: durations, sizes, signals, modes, ports, owners."""

from __future__ import annotations

import re

from arkwright.diagnostics.errors import UserError
from arkwright.frontends.dockerfile.tokens import Token
from arkwright.graph.ops import Owner

_UNITS_NS = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip
# Compiled by `re` when they are first used.
_DURATION = r"(?a:(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))"
_MAX_DURATION_NS = 2**63 - 1
_SIZE = r"(?ai:(\d+(?:\.\d+)?) ?([kmgtp]?)i?b?)"
_SYMBOLIC_MODE = r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*"
_DIGITS = re.compile(r"[0-9]{1,10}")
_SIGNALS = frozenset((
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
))  # fmt: skip


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as `1m30s` (time.ParseDuration). Raises `ValueError`."""
    sign, body = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if body == "0":
        return 0
    total, position = 0.0, 0
    whole = 0
    duration = re.compile(_DURATION)
    while position < len(body):
        match = duration.match(body, position)
        if match is None:
            raise ValueError("write a number and a unit, such as 30s or 1m30s")
        number, unit = match[1], _UNITS_NS[match[2]]
        if "." in number:
            total += float(number) * unit
        else:
            whole += int(number) * unit
        position = match.end()
    if not body or whole + total > _MAX_DURATION_NS:
        raise ValueError("write a number and a unit, such as 30s or 1m30s")
    return sign * (whole + int(total))


def format_duration(nanoseconds: int) -> str:
    """As Go's Duration.String: `1m30s`, `500ms`, `0s`."""
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1000)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    minutes, rest = divmod(nanoseconds, _UNITS_NS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(rest, _UNITS_NS["s"]) + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(number: int, size: int) -> str:
    digits = len(str(size)) - 1
    whole, rest = divmod(number, size)
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)


def parse_size(text: str) -> int:
    """Bytes of a size such as `64m` or `1.5GiB`, units in powers of 1024. Raises `ValueError`."""
    match = re.fullmatch(_SIZE, text)
    if match is None:
        raise ValueError("write a number and maybe a unit, such as 64m")
    factor = 1024 ** ("kmgtp".index(match[2].lower()) + 1 if match[2] else 0)
    return int(float(match[1]) * factor)


def parse_bool(text: str) -> bool:
    """What Go's strconv.ParseBool accepts. Raises `ValueError`."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError("write true or false")


def check_signal(signal: Token) -> None:
    """Refuse what is neither a signal's number nor its name. Raises `UserError` `invalid-signal`."""
    name = signal.text.upper().removeprefix("SIG")
    real_time = re.fullmatch(r"RT(?:MIN\+|MAX-)([0-9]{1,2})", name)
    if real_time is not None and int(real_time[1]) <= 30:
        return
    if name in _SIGNALS or (_DIGITS.fullmatch(signal.text) and 1 <= int(signal.text) <= 64):
        return
    raise UserError.of(
        "invalid-signal",
        f"{signal.text!r} is not a signal",
        signal.span,
        hint="write a name such as SIGTERM or a number",
    )


def parse_mode(mode: Token) -> str:
    """A canonical `--chmod` value: four or more octal digits, or a symbolic mode as written.

    Raises `UserError` `invalid-chmod`.
    """
    text = mode.text
    if re.fullmatch(r"[0-7]{1,8}", text) and int(text, 8) <= 0o7777:
        return f"{int(text, 8):04o}"
    if re.fullmatch(_SYMBOLIC_MODE, text):
        return text
    raise UserError.of(
        "invalid-chmod",
        f"--chmod={text} is neither an octal mode up to 7777 nor a symbolic one",
        mode.span,
        hint="write 0755, or u=rwX,go=rX",
    )


def parse_owner(owner: Token) -> Owner:
    """`user[:group]`, names or numbers. Raises `UserError` `invalid-chown`."""
    user, _, group = owner.text.partition(":")
    if ":" in group or (not user and not group):
        raise UserError.of("invalid-chown", f"--chown={owner.text} is not user[:group]", owner.span)
    return Owner(user or "0", group)


def parse_ports(port: Token) -> list[str]:
    """The `port/protocol` entries of one EXPOSE word, `[[ip:]host:]port[-port][/protocol]`.

    Raises `UserError` `invalid-port`.
    """
    address, _, container = port.text.rpartition(":")
    numbers, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise _invalid_port(port, f"the protocol {protocol!r} is not tcp, udp or sctp")
    first, last = _port_range(port, numbers)
    if address:
        _check_host_part(port, address, last - first)
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def _check_host_part(port: Token, address: str, width: int) -> None:
    ip, _, host = address.rpartition(":")
    if ip:
        import ipaddress

        try:
            ipaddress.ip_address(ip.removeprefix("[").removesuffix("]"))
        except ValueError as error:
            raise _invalid_port(port, f"{ip!r} is not an IP address") from error
    if host:
        start, end = _port_range(port, host)
        if end - start != width and width:
            raise _invalid_port(port, "the ranges of host and container differ in length")


def _port_range(port: Token, text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not _DIGITS.fullmatch(first) or (dash and not _DIGITS.fullmatch(last)):
        raise _invalid_port(port, f"{text!r} is not a port or a range of ports")
    start, end = int(first), int(last) if dash else int(first)
    if not start <= end <= 65535:
        raise _invalid_port(port, f"{text!r} is not within 0-65535 in rising order")
    return start, end


def _invalid_port(port: Token, why: str) -> Exception:
    return UserError.of(
        "invalid-port", f"EXPOSE {port.text}: {why}", port.span, hint="write 80, 80/udp or 8000-8010"
    )


def go_quote(text: str) -> str:
    """A Go string literal (strconv.Quote), as histories show commands."""
    names = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
             "\\": "\\\\", '"': '\\"'}  # fmt: skip
    return '"' + "".join(names.get(char) or _go_char(char) for char in text) + '"'


def _go_char(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def go_quote_list(words: tuple[str, ...]) -> str:
    """Go's `%q` of a list of strings."""
    return "[" + " ".join(go_quote(word) for word in words) + "]"
