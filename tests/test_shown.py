"""Text of other people's: secrets of URLs, what steers a terminal, formulas."""

import json

import pytest

from kfdeploy.errors import KfdeployError
from kfdeploy.shown import cell, lines, place, plain, secrets_of, without_secrets

URLS = {
    "s3://user:pass@bucket/pool": "s3://bucket/pool",
    "s3:/user:pass@bucket/pool": "s3:/bucket/pool",  # what a path makes of it
    "https://token@host/pool/?a=b#c": "https://host/pool",
    "http://user:pa/ss@host:80/pool": "http://host:80/pool",
    "http://user:pa?ss@host/pool": "http://host/pool",
    "https://host/pool?X-Amz-Signature=abcdef&X-Amz-Date=1": "https://host/pool",
    "ssh://me@host:22/folder": "ssh://me@host:22/folder",
    "ssh://me:pass@host/folder": "ssh://host/folder",
    "https://host:8080/pkg@1.0/x": "https://host:8080/pkg@1.0/x",
    "abfs://container@account/pool": "abfs://container@account/pool",
    "memory://": "memory://",
    "memory://pool/": "memory://pool",
    "a folder/with @ and ?": "a folder/with @ and ?",
}


@pytest.mark.parametrize("url", URLS)
def test_a_place_is_shown_without_its_secrets(url):
    assert place(url) == URLS[url]
    assert f"'{URLS[url]}" in without_secrets(f"'{url}' is not there")
    assert URLS[url] in str(KfdeployError(f"{url} is not there", hint=url))


def test_pieces_that_libraries_repeat_are_hidden_too():
    url = "s3://ada:pa%2Fss@bucket/pool?token=sesame"
    assert {"pa/ss", "pa%2Fss", "ada:pa/ss", "sesame"} <= secrets_of(url)
    assert without_secrets('no bucket "ada:pa%2Fss@bucket", key pa/ss', url) == 'no bucket "…@bucket", key …'
    assert without_secrets("GET /pool?sig=abc&n=1 failed") == "GET /pool?sig=…&n=1 failed"
    assert without_secrets("the key is 7, tokens: 3") == "the key is 7, tokens: 3"


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x07", "\x9b2J", "\u202e", "\u2066", "\u2028", "\x85", "\x7f", "\U000e0041"]
)
def test_what_steers_is_spelt_out_as_json_has_it(text):
    for show in (plain, lines):
        shown = show(f"é{text}漢")
        assert shown.isprintable()
        assert json.loads(f'"{shown}"') == f"é{text}漢"


def test_letters_blanks_and_our_own_lines_stay():
    names = "é 漢 \u3000 \u00a0 👩\u200d🔬"
    assert plain(names) == lines(names) == names
    assert lines("one\n\ttwo") == "one\n\ttwo"
    assert plain("one\ntwo\t\r") == "one\\ntwo\\t\\r"


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", " =1"])
def test_no_name_becomes_a_formula(name):
    assert str(cell(name)).startswith("'")


def test_numbers_and_plain_names_stay_as_they_are():
    assert [cell(value) for value in (-1, 2.5, None, "", "cat", "sea horse", "a=b")] == [
        -1, 2.5, None, "", "cat", "sea horse", "a=b",
    ]  # fmt: skip
