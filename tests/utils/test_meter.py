"""Progress bars and plain lines without a trainer."""

from __future__ import annotations

import pytest

from vibethinker.utils.meter import Meter, clock, tracked


def test_clock() -> None:
    assert [clock(s) for s in (0, 31, 3599, 3723)] == ["0:00", "0:31", "59:59", "1:02:03"]


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Meter(interval=0).show("probe", 1, 2, "loss 0.5")
    assert capsys.readouterr().out == "probe 1/2  loss 0.5  0:00 elapsed\n"


def test_tracked_items_print_nothing_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked([3, 1, 2], "Counting")) == [3, 1, 2]
    assert "".join(capsys.readouterr()) == ""
