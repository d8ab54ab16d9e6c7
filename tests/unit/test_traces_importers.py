"""Which format a trace file is told to be of, and what is refused of any."""

from __future__ import annotations

import pytest

from testbed.errors import UserError
from testbed.traces.importers import FORMATS
from tests.unit.trace_files import (
    RECOGNISED,
    UCC_5G_HEADER,
    read,
    steps,
    ucc_5g,
)


@pytest.mark.parametrize("name", RECOGNISED)
def test_content_tells_the_format(tmp_path, name) -> None:
    text, direction = RECOGNISED[name]
    sidecar = read(tmp_path, text, direction=direction).sidecar
    assert sidecar["format"] == name
    assert sidecar["directions"] == [direction or FORMATS[name].direction or "up"]


def test_every_format_but_the_callers_own_is_recognised() -> None:
    assert set(FORMATS) - set(RECOGNISED) == {"csv"}


@pytest.mark.parametrize("name", [n for n, (_, said) in RECOGNISED.items() if said])
def test_a_direction_that_the_file_does_not_tell_must_be_said(tmp_path, name) -> None:
    with pytest.raises(UserError, match=r"does not tell which direction .*; say --direction"):
        read(tmp_path, RECOGNISED[name][0])


@pytest.mark.parametrize("name", ["hsdpa-norway", "ucc-5g", "lumos5g", "oboe"])
def test_a_downlink_is_not_imported_as_uplink(tmp_path, name) -> None:
    with pytest.raises(UserError, match=r"says down, .*'direction: as-uplink' in the experiment"):
        read(tmp_path, RECOGNISED[name][0], direction="up")


def test_an_uplink_named_so_is_not_imported_as_downlink(tmp_path) -> None:
    with pytest.raises(UserError, match=r"'direction: as-downlink'"):
        read(tmp_path, "1\n5\n", "cell.up", direction="down")


def test_what_may_be_two_formats_is_refused_with_both(tmp_path) -> None:
    text = "1.0 311\n2.0 311\n3.0 500\n4.0 500\n"
    with pytest.raises(UserError, match=r"may be oboe or cooked; say --format oboe\|cooked"):
        read(tmp_path, text)
    assert steps(read(tmp_path, text, format="oboe"), "down")[0] == (0, 0.002, 0.311)


@pytest.mark.parametrize("text", ["", "hello\n", "a,b\n1,2\n", "5\n3\n", '{"a": 1}\n'])
def test_what_is_not_known_is_refused_with_all_formats(tmp_path, text) -> None:
    with pytest.raises(UserError, match=r"not recognised .* --format testbed\|mahimahi\|"):
        read(tmp_path, text)


def test_an_option_without_use_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="--gaps means nothing for the format mahimahi"):
        read(tmp_path, "1\n5\n", "cell.up", gaps="zero")
    with pytest.raises(UserError, match="ucc-5g selects by nothing, got 'run'"):
        read(tmp_path, RECOGNISED["ucc-5g"][0], select={"run": "1"})
    with pytest.raises(UserError, match="format: expected one of testbed, "):
        read(tmp_path, "", format="pcap")


CSV = "when;note;rx;tx\n10.5;a;1000;8\n11;b;-;8\n11.5;c;2000;\n12;d;3000;16\n"
OWN = {"format": "csv", "unit": "kB/s", "time": "when", "time_unit": "s"}


def test_csv_of_named_columns_gives_both_directions(tmp_path) -> None:
    found = read(tmp_path, CSV, columns={"down": "rx", "up": "tx"}, gaps="zero", **OWN)
    assert steps(found, "down") == [(0, 0.5, 8), (0.5, 1.5, 0), (1.5, 2, 24)]
    assert steps(found, "up") == [(0, 0.5, 0.064), (0.5, 1.5, 0), (1.5, 2, 0.128)]


def test_csv_times_may_be_dates(tmp_path) -> None:
    text = "t,v\n2026-03-29T01:59:59.5,1\n2026-03-29T02:00:00.5,2\n"
    said = {**OWN, "time": "t", "time_unit": "iso", "unit": "Gbit/s"}
    found = read(tmp_path, text, columns={"up": "v"}, **said)
    assert steps(found, "up") == [(0, 1, 1000), (1, 2, 2000)]
    with pytest.raises(UserError, match="original:3: expected a time such as 2026"):
        read(tmp_path, text.replace("2026-03-29T02", "later"), columns={"up": "v"}, **said)


@pytest.mark.parametrize("name", ["csv", "testbed"])
def test_columns_tell_their_direction_themselves(tmp_path, name) -> None:
    own = {**OWN, "columns": {"up": "rx"}}
    text, said = (CSV, own) if name == "csv" else (RECOGNISED[name][0], {})
    with pytest.raises(UserError, match="--direction means nothing here"):
        read(tmp_path, text, direction="down", **said)


def test_csv_without_its_unit_or_columns_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="needs --up-column or --down-column"):
        read(tmp_path, CSV, format="csv")
    with pytest.raises(
        UserError, match=r"original:1: expected a header with speed, got 'when;note;rx;tx'"
    ):
        read(tmp_path, CSV, columns={"up": "speed"}, **OWN)
    with pytest.raises(UserError, match="a wrong time unit"):
        read(tmp_path, "when;rx\n0;1\n1e9;1\n2e9;1\n", columns={"up": "rx"}, **OWN)


def test_mahimahi_bad_lines_are_left_out_only_on_demand(tmp_path) -> None:
    text = "5\n\n20\n10\n40\n"
    with pytest.raises(UserError, match=r"cell\.up:2: expected one whole number of ms, 5 to 10+,"):
        read(tmp_path, text, "cell.up", format="mahimahi")
    found = read(tmp_path, text, "cell.up", format="mahimahi", skip_bad=True)
    assert found.sidecar["skipped_lines"] == 2
    assert steps(found, "up") == [(0, 0.02, 1.2), (0.02, 0.04, 0.6)]


def test_nothing_left_is_no_trace(tmp_path) -> None:
    with pytest.raises(UserError, match="expected at least one rate, got none"):
        read(tmp_path, UCC_5G_HEADER + ucc_5g("01", "0", "I"))
    with pytest.raises(UserError, match="expected run=4, got run=1 pair=1"):
        read(tmp_path, "Run 1\n5\n", select={"run": "4"})
