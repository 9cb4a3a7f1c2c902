from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from ofa.config import (
    ConfigError,
    Named,
    Record,
    apply_overrides,
    check_record,
    from_mapping,
    keys_of,
    read_yaml,
    registry,
    to_plain,
)
from ofa.files import FileFormatError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    sizes: tuple[int, ...] | None = None
    mode: Literal["fast", "good"] = "good"

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ConfigError(f"rate must be above 0, not {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    steps: int = 10
    nested: bool = False
    labels: dict[str, int] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def make(**values: Any) -> Outer:
    return from_mapping(Outer, {"name": "x", **values}, where="recipe x.yaml")


def test_defaults_and_nesting() -> None:
    assert make() == Outer(name="x")
    assert make(steps=3, inner={"rate": 1, "sizes": [1, 2], "mode": "fast"}) == Outer(
        name="x", steps=3, inner=Inner(rate=1.0, sizes=(1, 2), mode="fast")
    )


@pytest.mark.parametrize(("given", "meant"), [(2, 2.0), (0.5, 0.5), ("1e-3", 0.001)])
def test_what_a_float_may_be_written_as(given: object, meant: float) -> None:
    rate = make(inner={"rate": given}).inner.rate
    assert rate == meant
    assert type(rate) is float


@pytest.mark.parametrize("given", [float("inf"), float("nan"), "-inf", "nan", 10**400])
def test_a_number_that_is_not_finite_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=r"recipe x.yaml: inner: rate must be a finite number, not "):
        make(inner={"rate": given})


ALIASES = "a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (ALIASES, r"aliases are not taken; write out what \*a stands for"),
        ("a: " + "[" * 5000, ""),
        ("a: " + "1" * 5000, ""),
        ("a: 0x" + "f" * 5000, "is too long, or no text"),
        ("a: 1" + ":1" * 5000, "is too long, or no text"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("a: !!int x", "tags such as tag:yaml.org,2002:int are not taken"),
        ("a: !!python/object/apply:os.system [ls]", "tags such as tag:yaml.org,2002:python"),
        ("a: 2001-99-99", "month must be in"),
        (r'a: "\0"', "is too long, or no text"),
        (r'a: "\uD800"', "surrogates not allowed"),
    ],
    ids=["aliases", "nested", "digits", "hex", "sexagesimal", "deep", "tag", "object", "date", "zero", "surrogate"],
)
def test_hostile_yaml_ends_at_once_in_a_message(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"recipe .*x.yaml is not valid YAML: .*{why}") as caught:
        read_yaml(file, kind="recipe")
    assert len(str(caught.value)) < 1000


def test_values_are_cut_in_messages() -> None:
    nested: object = 1
    for _ in range(40):
        nested = [nested] * 40
    with pytest.raises(ConfigError, match="steps must be a whole number") as caught:
        make(steps=nested)
    assert len(str(caught.value)) < 1000


def test_none_where_it_is_allowed() -> None:
    assert make(inner={"sizes": None}).inner.sizes is None


def test_misspelt_key_names_the_nearest_and_the_known() -> None:
    message = r"recipe x.yaml: unknown key 'step'; did you mean 'steps'\? known: name, steps, nested, labels, inner$"
    with pytest.raises(ConfigError, match=message):
        make(step=3)
    with pytest.raises(ConfigError, match=r"recipe x.yaml: inner: unknown key 'raet'; did you mean 'rate'\?"):
        make(inner={"raet": 0.1})
    with pytest.raises(ConfigError, match="unknown key 1;"):
        from_mapping(Outer, {"name": "x", 1: 2}, where="recipe")  # type: ignore[dict-item]


def test_missing_key() -> None:
    with pytest.raises(ConfigError, match=r"recipe x.yaml: key 'name' is missing"):
        from_mapping(Outer, {}, where="recipe x.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "3"}, "steps must be a whole number, not '3'"),
        ({"steps": 3.0}, "steps must be a whole number, not 3.0"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"steps": None}, "steps must be a whole number, not None"),
        ({"nested": 1}, "nested must be true or false, not 1"),
        ({"name": 3}, "name must be text, not 3"),
        ({"labels": [1]}, r"labels must be a mapping, not \[1\]"),
        ({"inner": 3}, "inner must be a mapping with keys rate, sizes, mode, not 3"),
        ({"inner": {"rate": True}}, "inner: rate must be a finite number, not True"),
        ({"inner": {"rate": "quick"}}, "inner: rate must be a finite number, not 'quick'"),
        ({"inner": {"sizes": 3}}, "inner: sizes must be a list, not 3"),
        ({"inner": {"sizes": "12"}}, "inner: sizes must be a list, not '12'"),
        ({"inner": {"sizes": [1, "2"]}}, "inner: sizes must be a whole number, not '2'"),
        ({"inner": {"mode": "best"}}, "inner: mode cannot be 'best'; choices: fast, good"),
        ({"inner": {"rate": -1}}, "recipe x.yaml: inner: rate must be above 0, not -1.0"),
    ],
)
def test_wrong_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no recipe at .*x.yaml"),
        ("a: [1, 2", "recipe .*x.yaml is not valid YAML: .*line 1"),
        ("a: !!python/object:os.system {}", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("", "x.yaml is empty; it must be a mapping"),
        ("- a", r"x.yaml holds \['a'\]; it must be a mapping"),
    ],
)
def test_what_is_wrong_with_a_yaml_file(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(tmp_path / "x.yaml", kind="recipe")
    assert "\n" not in str(caught.value)


def test_yaml_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        read_yaml(tmp_path / "x.yaml", kind="recipe")


def test_yaml_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe"):
        read_yaml(tmp_path, kind="recipe")


def test_overrides_are_read_as_yaml_and_laid_over_a_copy() -> None:
    values = {"name": "x", "inner": {"rate": 0.1}}
    before = copy.deepcopy(values)
    words = ["name=y", "inner.sizes=[1, 2]", "inner.rate=1e-3", "new.deep.key=true", "empty="]
    assert apply_overrides(values, words) == {
        "name": "y",
        "inner": {"rate": "1e-3", "sizes": [1, 2]},
        "new": {"deep": {"key": True}},
        "empty": None,
    }
    assert values == before


def test_overrides_leave_deep_values_of_the_original_alone() -> None:
    values = {"a": {"b": {"c": 1}}}
    assert apply_overrides(values, ["a.b.c=2"]) == {"a": {"b": {"c": 2}}}
    assert values == {"a": {"b": {"c": 1}}}


def test_the_last_override_wins() -> None:
    assert apply_overrides({"steps": 1}, ["steps=2", "steps=3"]) == {"steps": 3}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("steps", r"override 'steps' must look like section.key=value, for example train.epochs=10"),
        ("=3", "override '=3' must look like section.key=value"),
        ("steps.first=3", "override 'steps.first=3': 'steps' is a single value, not a section"),
        ("steps=[1", r"override 'steps=\[1': cannot read the value '\[1'"),
    ],
)
def test_bad_overrides(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"steps": 1}, [word])


def test_a_bare_name_takes_settings() -> None:
    assert apply_overrides({"loss": "soft"}, ["loss.weight=1"]) == {"loss": {"name": "soft", "weight": 1}}


# -- parts that are chosen by name -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shape(Named):
    pass


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    radius: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Box(Shape):
    sides: tuple[int, ...]
    inner: Inner = field(default_factory=Inner)


registry(Shape, {"circle": Circle, "box": Box})


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Shape = field(default_factory=Circle)


def draw(shape: object) -> Shape:
    return from_mapping(Drawing, {"shape": shape}, where="drawing").shape


def test_a_part_by_its_name_alone_or_with_settings() -> None:
    assert Drawing().shape == draw("circle") == draw({"name": "circle"}) == Circle()
    assert draw({"name": "circle", "radius": "1e-1"}) == Circle(radius=0.1)
    assert draw({"name": "box", "sides": [1, 2]}) == Box(sides=(1, 2))
    assert [draw("circle").name, Box(sides=()).name] == ["circle", "box"]


@pytest.mark.parametrize("shape", [Circle(radius=2), Box(sides=(1, 2), inner=Inner(rate=3, sizes=(4,)))])
def test_plain_data_makes_the_same_part_again(shape: Shape) -> None:
    plain = to_plain(Drawing(shape=shape))
    assert plain["shape"]["name"] == shape.name
    assert from_mapping(Drawing, plain, where="drawing") == Drawing(shape=shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("crcle", r"drawing: shape: unknown name 'crcle'; did you mean 'circle'\? known: circle, box$"),
        ({"name": "hexagon"}, "drawing: shape: unknown name 'hexagon'; known: circle, box$"),
        ({"name": ["circle"]}, r"drawing: shape: unknown name \['circle'\]"),
        ({"name": None}, "drawing: shape: unknown name None; known: circle, box"),
        ({"radius": 1}, r"drawing: shape must have a name, one of circle, box, not \{'radius': 1\}"),
        (["circle"], r"drawing: shape must have a name, one of circle, box, not \['circle'\]"),
        (None, "drawing: shape must have a name, one of circle, box, not None"),
        ({"name": "circle", "raduis": 1}, "drawing: shape circle: unknown key 'raduis'; did you mean 'radius'"),
        ({"name": "circle", "radius": "wide"}, "drawing: shape circle: radius must be a finite number, not 'wide'"),
        ("box", "drawing: shape box: key 'sides' is missing"),
        ({"name": "box", "sides": [1], "inner": {"rate": 0}}, "shape box: inner: rate must be above 0, not 0.0"),
    ],
)
def test_what_is_wrong_with_a_part(shape: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(shape)


def test_a_part_outside_the_registry_has_no_name() -> None:
    class Blob(Circle):
        pass

    with pytest.raises(ConfigError, match="Blob has no name; give it one in the registry of circle, box"):
        to_plain(Drawing(shape=Blob()))


def test_settings_of_a_part_by_key() -> None:
    values = apply_overrides({"shape": "circle"}, ["shape.radius=2"])
    assert from_mapping(Drawing, values, where="drawing") == Drawing(shape=Circle(radius=2))
    values = apply_overrides({"shape": {"name": "circle", "radius": 3}}, ["shape=box", "shape.sides=[1]"])
    assert from_mapping(Drawing, values, where="drawing") == Drawing(shape=Box(sides=(1,)))


COLOURS: dict[str, object] = {"red": 1, "green": 2}


@dataclass(frozen=True, kw_only=True)
class Paint:
    name: str
    shares: dict[str, float | None] = field(default_factory=dict, metadata=keys_of(COLOURS))
    is_dry: bool = True


def test_keys_that_a_registry_names() -> None:
    paint = from_mapping(Paint, {"name": "mine", "green": 1, "red": None}, where="p")
    assert paint == Paint(name="mine", shares={"green": 1.0})
    assert to_plain(paint) == {"name": "mine", "red": None, "green": 1.0, "is_dry": True}
    assert list(to_plain(paint)) == ["name", "red", "green", "is_dry"]
    assert from_mapping(Paint, to_plain(paint), where="p") == paint
    with pytest.raises(ConfigError, match=r"'gren'; did you mean 'green'[?] known: name, red, green, is_dry"):
        from_mapping(Paint, {"name": "mine", "gren": 1}, where="p")
    with pytest.raises(ConfigError, match="p: red must be a finite number, not 'much'"):
        from_mapping(Paint, {"name": "mine", "red": "much"}, where="p")


@dataclass(frozen=True, kw_only=True)
class Stored(Record):
    name: str
    ms: dict[str, float] = field(default_factory=dict)


def test_what_is_read_of_a_file_leaves_other_keys_alone() -> None:
    given = {"name": "a", "ms": {"p50": 1}, "later": [1]}
    assert check_record(Stored, given, where="x.json", remedy="make one") == Stored(name="a", ms={"p50": 1.0})
    for wrong, message in {
        '{"ms": {}}': "x.json: key 'name' is missing; make one",
        '{"name": 5}': "x.json: name must be text, not 5; make one",
        '{"name": "a", "ms": {"p50": "fast"}}': "x.json: ms.p50 must be a finite number, not 'fast'; make one",
        "[]": r"x.json must be a mapping with keys name, ms, not \[\]; make one",
    }.items():
        with pytest.raises(FileFormatError, match=message):
            check_record(Stored, json.loads(wrong), where="x.json", remedy="make one")


def test_whole_numbers_are_of_64_bits() -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number, not 9223372036854775808"):
        from_mapping(Seeded, {"seed": 1 << 63}, where="recipe")


@dataclass(frozen=True, kw_only=True)
class Seeded:
    seed: int
