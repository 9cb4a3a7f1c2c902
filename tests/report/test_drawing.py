from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ofa.report.drawing import architecture_svg, block_rect, blocks_of, describe_blocks, legend_svgs
from ofa.space import Dim, SearchSpace

FIXED = SearchSpace((Dim("stage1.depth", (1, 3)), Dim("stage2.block0.kernel", (3, 5)), Dim("stage3.depth", (2, 4))))


def rects(svg: str, css_class: str) -> list[ElementTree.Element]:
    return [rect for rect in ElementTree.fromstring(svg).iter("rect") if rect.get("class") == css_class]


@given(seed=st.integers(0, 2**32 - 1))
def test_as_many_blocks_as_the_depths_say(space: SearchSpace, seed: int) -> None:
    arch = space.sample(np.random.default_rng(seed))
    depths = [int(value) for name, value in arch.items() if name.endswith(".depth")]
    svg = architecture_svg(space, arch)
    assert len(rects(svg, "block")) == sum(depths)
    assert len(rects(svg, "skipped")) == 4 * len(depths) - sum(depths)
    for stage, blocks in blocks_of(space, arch).items():
        assert [sizes is not None for sizes in blocks] == [i < int(arch[f"{stage}.depth"]) for i in range(4)]
        for index, sizes in enumerate(blocks):
            if sizes is not None:
                assert sizes["kernel"] == arch[f"{stage}.block{index}.kernel"]
                assert sizes["expand"] == arch[f"{stage}.block{index}.expand"]


def test_blocks_without_dims_of_their_own_follow_the_depth() -> None:
    arch = FIXED.arch({"stage1.depth": 1, "stage2.block0.kernel": 5, "stage3.depth": 4})
    active = {stage: [sizes is not None for sizes in blocks] for stage, blocks in blocks_of(FIXED, arch).items()}
    assert active == {"stage1": [True, False, False], "stage2": [True], "stage3": [True] * 4}
    assert len(rects(architecture_svg(FIXED, arch), "block")) == 6


def test_larger_choices_are_drawn_larger(space: SearchSpace) -> None:
    widths, _, opacities = zip(
        *(block_rect(space, {"kernel": kernel, "expand": 6}) for kernel in (3, 5, 7)), strict=True
    )
    _, heights, _ = zip(*(block_rect(space, {"kernel": 7, "expand": expand}) for expand in (3, 4, 6)), strict=True)
    for sizes in (widths, heights, opacities):
        assert list(sizes) == sorted(set(sizes))
    assert heights[0] / heights[2] == 0.5


def test_everything_stays_within_the_frame(space: SearchSpace) -> None:
    svg = architecture_svg(space, space.largest())
    _, _, width, height = map(float, ElementTree.fromstring(svg).attrib["viewBox"].split())
    for rect in ElementTree.fromstring(svg).iter("rect"):
        x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height


def test_the_drawing_says_in_words_what_it_shows(space: SearchSpace) -> None:
    label = ElementTree.fromstring(architecture_svg(space, space.smallest())).attrib["aria-label"]
    assert label.startswith("resolution 128 pixels; stage1: 2 of 4 blocks, kernel 3 expand 3, kernel 3 expand 3; ")


def test_a_route_is_said() -> None:
    space = SearchSpace((Dim("resolution", (32,)), Dim("anchors.route", ("anchor0", "0.1-1.2", "anchor1"))))
    arch = space.arch({"resolution": 32, "anchors.route": "0.1-1.2"})
    assert describe_blocks(space, arch) == "resolution 32 pixels; route 0.1-1.2"
    assert [text.text for text in ElementTree.fromstring(architecture_svg(space, arch)).iter("text")][-1] == "0.1-1.2"


def test_the_legend_names_every_choice(space: SearchSpace) -> None:
    meanings = [meaning for _, meaning in legend_svgs(space)]
    assert meanings == ["kernel 3", "kernel 5", "kernel 7", "expand 3", "expand 4", "expand 6", "skipped"]
    assert [meaning for _, meaning in legend_svgs(FIXED)] == ["kernel 3", "kernel 5", "skipped"]


def test_names_of_stages_are_escaped() -> None:
    space = SearchSpace((Dim("<b>.depth", (1, 2)),))
    assert ElementTree.fromstring(architecture_svg(space, space.largest())).findtext("text") == "<b>"
