"""A small drawing of an architecture: stages from left to right, one rectangle per block."""

from __future__ import annotations

import re
from collections.abc import Mapping

from markupsafe import Markup

from ofa.space import SearchSpace, Value

BLOCK_DIM = re.compile(r"(?P<stage>.+)\.block(?P<index>\d+)\.(?P<what>\w+)")

# Units of the drawings, and how many pixels one is on a wide screen.
HEIGHT, SLOT, STAGE_GAP, LEFT, SCALE = 56.0, 24.0, 18.0, 86.0, 1.2


# Dims that are drawn as the height of a block, in the order of preference where a block has both.
RATIOS = ("expand", "mlp_ratio")
MAX_SAMPLES = 6

# Of stitched networks, whose blocks are not told: the way through them, in words.
ROUTE, ROUTE_WIDTH = "anchors.route", 96.0


Sizes = Mapping[str, Value]
"""What the dims of a block choose: kind of dim -> value."""


def blocks_of(space: SearchSpace, arch: Mapping[str, Value]) -> dict[str, list[Sizes | None]]:
    """Every block that the space knows, by stage, in the order of the space; ``None`` where ``arch`` skips it."""
    num_blocks: dict[str, int] = {}
    known = set()
    for dim in space.dims:
        if dim.name.endswith(".depth"):
            stage, num = dim.name.removesuffix(".depth"), int(max(dim.values))
        elif match := BLOCK_DIM.fullmatch(dim.name):
            stage, num = match["stage"], int(match["index"]) + 1
            known.add((stage, num - 1))
        else:
            continue
        num_blocks[stage] = max(num, num_blocks.get(stage, 0))

    def block(stage: str, index: int) -> Sizes | None:
        prefix = f"{stage}.block{index}."
        dims = {name.removeprefix(prefix): value for name, value in arch.items() if name.startswith(prefix)}
        # A block with nothing elastic in it has no dims of its own: only the depth says whether it is there.
        is_active = bool(dims) if (stage, index) in known else index < int(arch.get(f"{stage}.depth", index + 1))
        return dims if is_active else None

    return {stage: [block(stage, index) for index in range(num)] for stage, num in num_blocks.items()}


def choices(space: SearchSpace, what: str) -> list[float]:
    """Every value that ``what`` ("kernel", "expand", "resolution") takes anywhere in the space, ascending."""
    names = RATIOS if what == "expand" else (what,)
    dims = [dim for dim in space.dims if dim.name.split(".")[-1] in names]
    return sorted({float(value) for dim in dims for value in dim.values})


def block_rect(space: SearchSpace, sizes: Sizes) -> tuple[float, float, float]:
    """Width, height and opacity of a block; all of what is not elastic is drawn at its fullest."""
    kernel = float(sizes.get("kernel", 0))
    expand = float(next((sizes[what] for what in RATIOS if what in sizes), 0))
    kernels, expands = choices(space, "kernel"), choices(space, "expand")
    width = (SLOT - 4) * (kernel / kernels[-1] if kernel else 1.0)
    height = HEIGHT * (expand / expands[-1] if expand else 1.0)
    opacity = 0.4 + 0.6 * (kernels.index(kernel) + 1) / len(kernels) if kernel else 1.0
    return width, height, opacity


def describe_blocks(space: SearchSpace, arch: Mapping[str, Value]) -> str:
    """The drawing in words, for those who cannot see it."""
    parts = [f"resolution {arch['resolution']} pixels"] if "resolution" in arch else []
    parts += [f"{arch[axis]} {axis}" for axis in ("tokens", "seconds") if axis in arch]
    parts += [f"route {arch[ROUTE]}"] if ROUTE in arch else []
    for stage, blocks in blocks_of(space, arch).items():
        active = [sizes for sizes in blocks if sizes is not None]
        parts.append(f"{stage}: {len(active)} of {len(blocks)} blocks" + "".join(map(_in_words, active)))
    return "; ".join(parts)


def _in_words(sizes: Sizes) -> str:
    words = [f"{what} {value if isinstance(value, str) else f'{value:g}'}" for what, value in sizes.items()]
    return f", {' '.join(words)}" if words else ""


def architecture_svg(space: SearchSpace, arch: Mapping[str, Value]) -> Markup:
    """The architecture as one SVG element, coloured by the page's style sheet.

    Height is the expand ratio, width and shade are the kernel size; blocks beyond a stage's depth are outlined.
    Stages stand at the same place for every architecture of a space, so drawings can be compared.
    """
    marks = [_resolution(space, arch)]
    x = LEFT
    smallest = {what: min(values) for what in ("kernel", "expand") if (values := choices(space, what))}
    for stage, blocks in blocks_of(space, arch).items():
        length = SLOT * len(blocks)
        marks.append(Markup('<path class="base" d="M{} {}h{}"/>').format(x, HEIGHT + 8, length))
        marks.append(Markup('<text x="{}" y="{}">{}</text>').format(x + length / 2, HEIGHT + 24, stage))
        for index, sizes in enumerate(blocks):
            width, height, opacity = block_rect(space, smallest if sizes is None else sizes)
            marks.append(
                Markup(
                    '<rect class="{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}" rx="1.5" fill-opacity="{:.2f}">'
                    "<title>{}</title></rect>"
                ).format(
                    "skipped" if sizes is None else "block",
                    round(x + SLOT * (index + 0.5) - width / 2, 2),
                    round(HEIGHT + 7 - height, 2),
                    round(width, 2),
                    round(height, 2),
                    opacity,
                    f"{stage}, block {index + 1}" + (", skipped" if sizes is None else _in_words(sizes)),
                )
            )
        x += length + STAGE_GAP
    if ROUTE in arch:
        marks.append(Markup('<text x="{}" y="{}">{}</text>').format(x + ROUTE_WIDTH / 2, HEIGHT + 24, arch[ROUTE]))
        x += ROUTE_WIDTH
    width, height = x - STAGE_GAP, HEIGHT + 30
    return Markup(
        '<svg class="architecture" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" width="{:g}">{}</svg>'
    ).format(describe_blocks(space, arch), width, height, SCALE * width, Markup("").join(marks))


def _resolution(space: SearchSpace, arch: Mapping[str, Value]) -> Markup:
    if "resolution" not in arch:
        return Markup("")
    side = HEIGHT * float(arch["resolution"]) / choices(space, "resolution")[-1]
    return Markup(
        '<rect class="frame" x="1" y="{:g}" width="{:g}" height="{:g}"/>'
        '<rect class="image" x="1" y="{:g}" width="{:g}" height="{:g}"/><text x="{:g}" y="{:g}">{} px</text>'
    ).format(
        7, HEIGHT, HEIGHT, round(HEIGHT + 7 - side, 2), side, side, 1 + HEIGHT / 2, HEIGHT + 24, arch["resolution"]
    )


def legend_svgs(space: SearchSpace) -> list[tuple[Markup, str]]:
    """Samples for the legend: a drawing and its meaning."""
    legend = []
    for kernel in _few(choices(space, "kernel")):
        width, _, opacity = block_rect(space, {"kernel": kernel})
        legend.append((_sample(width, 14, "block", opacity), f"kernel {kernel:g}"))
    kinds = {dim.name.rpartition(".")[2] for dim in space.dims}
    ratio = "/".join(what for what in RATIOS if what in kinds)
    for expand in _few(choices(space, "expand")):
        _, height, _ = block_rect(space, {"expand": expand})
        legend.append((_sample(5, height * 20 / HEIGHT, "plain", 1), f"{ratio} {expand:g}"))
    return [*legend, (_sample(9, 10, "skipped", 1), "skipped")]


def _few(values: list[float]) -> list[float]:
    """All values, or only the bounds where each block has its own."""
    return values if len(values) <= MAX_SAMPLES else [values[0], values[-1]]


def _sample(width: float, height: float, kind: str, opacity: float) -> Markup:
    return Markup(
        '<svg class="architecture sample" aria-hidden="true" viewBox="-1 -1 {:g} {:g}" width="{:g}" height="{:g}">'
        '<rect class="{}" width="{:g}" height="{:g}" y="{:g}" rx="1.5" fill-opacity="{:.2f}"/></svg>'
    ).format(width + 2, 22, width + 2, 22, kind, width, height, 20 - height, opacity)
