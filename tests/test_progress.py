from __future__ import annotations

import pytest

from ofa.progress import notice, progress_bar


def test_a_notice_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        progress(1, 2, "steps")
        notice(progress, "an [odd] thing")
    notice(None, "nobody hears this")
    out, err = capsys.readouterr()
    assert out == "" and err == "  an [odd] thing\n"
