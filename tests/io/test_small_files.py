"""Small files are read whole or refused in one sentence, whatever lies at the path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uertool.errors import ConfigError, InputError, listed, shown
from uertool.io.small_files import parse_json, read_file, read_json_object, read_text_file


def test_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff天气\n".encode())
    assert read_text_file(file, 100) == "天气\n"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/random"])
def test_a_device_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="not a regular file"):
        read_file(path, 100)


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_file(tmp_path / "pipe", 100)


def test_what_is_not_there_a_folder_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(200))
    for path, reason in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "big", "larger"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=f"^The configuration .*{reason}"):
            read_file(path, 100, what="configuration", error=ConfigError)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfea\x00", "UTF-16"),
        (b"{\n\xff", "line 2, byte 2 is 0xff"),
        (b"[1]", "not a JSON object"),
        (b'{"a": ', "not valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a\\ud800": 1}', "surrogate"),
        (b'{"a": ["\\udc00"]}', "surrogate"),
        (b'{"a\xed\xa0\x80": 1}', "not UTF-8"),
    ],
)
def test_what_is_no_json_object_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        read_json_object(file, error=ConfigError)
    assert len(str(caught.value)) < 400 + len(str(file))


def test_json_may_hold_any_character_in_escapes() -> None:
    assert parse_json('{"a": "\\ud83d\\ude00\\u5929"}', "It") == {"a": "😀天"}
    with pytest.raises(InputError, match="not valid JSON"):
        parse_json(b"\xed\xa0\x80", "It")


def test_names_in_messages_are_cut_and_printable() -> None:
    assert shown("天气") == "天气"
    assert shown("a\nb\ud800") == "a\\nb\\ud800"
    assert len(shown("x" * 3_000_000)) == 203
    assert listed(["a", "b"]) == "a, b"
    assert listed("abcdefgh") == "a, b, c, d, e, f and 2 more"
    assert listed(["a" * 150, "b" * 99, "c"]) == f"{'a' * 100}... and 2 more"
