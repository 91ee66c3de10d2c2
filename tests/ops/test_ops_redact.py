"""Secret values never leave a step's output."""

from hypothesis import given
from hypothesis import strategies as st

from arkwright.ops.redact import Redactor


def redact(values: list[bytes], chunks: list[bytes]) -> bytes:
    seen: list[bytes] = []
    redactor = Redactor(values, lambda fd, data: seen.append(data))
    for chunk in chunks:
        redactor(1, chunk)
    redactor.flush()
    return b"".join(seen)


def test_a_value_is_masked_wherever_reads_end() -> None:
    text = b"the key is hunter2-long and again hunter2-long\n"
    for cut in range(len(text)):
        out = redact([b"hunter2-long\n"], [text[:cut], text[cut:]])
        assert out.startswith(b"the key is *** and again ***")
        assert b"hunter2" not in out


def test_short_values_are_left_alone() -> None:
    assert redact([b"no"], [b"no news"]) == b"no news"


def test_streams_are_held_apart() -> None:
    seen: list[tuple[int, bytes]] = []
    redactor = Redactor([b"secret"], lambda fd, data: seen.append((fd, data)))
    redactor(1, b"sec")
    redactor(2, b"ret")
    redactor.flush()
    assert (1, b"sec") in seen
    assert (2, b"ret") in seen


@given(st.lists(st.text("abc", max_size=6), max_size=6), st.text("xyz", min_size=4, max_size=6))
def test_no_chunking_lets_a_value_through(noise: list[str], value: str) -> None:
    secret, around = value.encode(), [piece.encode() for piece in noise]
    out = redact([secret], [*around, secret[:2], secret[2:], *around])
    assert out == b"".join(around) + b"***" + b"".join(around)


@given(st.lists(st.binary(max_size=12), max_size=6))
def test_output_without_secrets_is_unchanged(chunks: list[bytes]) -> None:
    assert redact([b"\x01\x02never here\x03"], chunks) == b"".join(chunks).replace(
        b"\x01\x02never here\x03", b"***"
    )
