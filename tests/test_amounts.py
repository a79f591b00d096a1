"""Bytes and durations as they are written everywhere."""

from __future__ import annotations

import pytest

from farss.amounts import duration, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (231e6, "231 MB"),
        (999.4e6, "999 MB"),
        (999.6e6, "1.00 GB"),
        (1.35e9, "1.35 GB"),
        (38e12, "38.00 TB"),
        (5e15, "5000.00 TB"),
        (-2e6, "-2 MB"),
    ],
)
def test_bytes_are_decimal_as_on_disks(value, text):
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.84, "0.8 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_roll_over_where_they_round(seconds, text):
    assert duration(seconds) == text
