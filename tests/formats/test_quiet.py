"""What converters print."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import pytest
import torch
from torch import nn

from ofa.formats import FORMATS, Shipped
from ofa.formats.quiet import quiet
from ofa.optional import NotInstalledError


def chatter() -> None:
    print("by print")
    print("by print, as an error", file=sys.stderr)
    os.write(1, b"past Python\n")
    os.write(2, b"past Python, as an error\n")
    logging.getLogger("foreign").warning("by logging")
    warnings.warn("a warning", stacklevel=1)


def test_nothing_reaches_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        chatter()
    assert tuple(capfd.readouterr()) == ("", "")
    print("after")
    os.write(2, b"after\n")
    assert tuple(capfd.readouterr()) == ("after\n", "after\n")
    with pytest.warns(UserWarning, match="a warning"):
        chatter()


def test_what_was_written_is_shown_where_it_fails() -> None:
    with pytest.raises(RuntimeError, match="no kernel") as caught, quiet():
        chatter()
        raise RuntimeError("no kernel")
    (note,) = caught.value.__notes__
    for line in ("by print", "by print, as an error", "past Python", "past Python, as an error"):
        assert f"\n{line}\n" in f"{note}\n"


def test_a_failure_without_a_word_has_no_note() -> None:
    with pytest.raises(RuntimeError) as caught, quiet():
        raise RuntimeError
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.alone
@pytest.mark.parametrize("name", FORMATS)
def test_exporters_are_quiet(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            FORMATS[name].to_ship(module, Shipped(input_shape=(3, 8, 8), dtype=torch.float32))
        except NotInstalledError as error:
            pytest.skip(str(error))
    assert tuple(capfd.readouterr()) == ("", "")
