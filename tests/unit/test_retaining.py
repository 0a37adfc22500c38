"""Which retention a run has, by its method and its options; and what --retain names."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from amnestic.config import UnlearnConfig, from_mapping, override, to_mapping
from amnestic.constraints.bound import Bound
from amnestic.constraints.multiplier import Bounded, Fixed
from amnestic.constraints.options import BoundOptions, MultiplierOptions
from amnestic.constraints.retention import KL, NLL, HiddenDistance, Retention
from amnestic.data.options import kept_sources
from amnestic.errors import InputError
from amnestic.methods.base import Method
from amnestic.methods.flattening import PDU
from amnestic.model.signals import Needs
from amnestic.retaining import names_of, retentions_of


@dataclass(frozen=True)
class Steered(Method):
    """A method that is published with two losses on what is kept, each of its own weight."""

    name: ClassVar[str] = "steered"
    needs: ClassVar[Needs] = Needs()
    bounded: ClassVar[Bounded] = Bounded(rate=0.5, initial=7.0)
    retention: ClassVar[tuple] = (Retention(HiddenDistance(3), Fixed(1200.0)), Retention(NLL(), Fixed(2.0)))

    def objective(self, model, reference):
        raise NotImplementedError


class Bare(Steered):
    """One that is published without a retention."""

    retention: ClassVar[tuple] = ()


def chosen(method: Method, blocks: int = 16, **options: Any) -> list[Retention]:
    return retentions_of(method, BoundOptions(**options), MultiplierOptions(), lambda: blocks)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        (PDU(), {}, [Retention(NLL(), PDU.bounded)]),
        (PDU(), {"retention": "nll"}, [Retention(NLL(), PDU.bounded)]),
        (PDU(), {"alpha": 0.5}, [Retention(NLL(), PDU.bounded)]),
        (PDU(), {"retain_weight": 3}, [Retention(NLL(), Fixed(3))]),
        (PDU(), {"keep": "none", "retain_weight": 3}, [Retention(NLL(), Fixed(3))]),
        (Steered(), {}, [*Steered.retention]),
        (Steered(), {"keep": "none"}, [*Steered.retention]),
        (Steered(), {"keep": 0.9}, [Retention(NLL(), Steered.bounded)]),
        (Steered(), {"retention": "kl", "bound": 0.1}, [Retention(KL(), Steered.bounded)]),
        (Steered(), {"retention": "kl", "retain_weight": 4}, [Retention(KL(), Fixed(4))]),
        (Steered(), {"retention": "hidden", "bound": 0.1}, [Retention(HiddenDistance(7), Steered.bounded)]),
        (
            Steered(),
            {"retain_weight": 4},
            [Retention(HiddenDistance(3), Fixed(4)), Retention(NLL(), Fixed(4))],
        ),
        (Bare(), {}, []),
        (Bare(), {"bound": 0.3}, [Retention(NLL(), Bare.bounded)]),
        (Bare(), {"retain_weight": 1}, [Retention(NLL(), Fixed(1))]),
    ],
)
def test_the_options_replace_what_is_published(method, options, expected):
    assert chosen(method, **options) == expected


@pytest.mark.parametrize(("blocks", "layer"), [(2, 1), (12, 6), (14, 7), (40, 7)])
def test_the_block_that_is_compared_is_the_seventh_or_the_middle_one(blocks, layer):
    (found,) = chosen(Bare(), blocks, retention="hidden", bound=1.0)
    assert found.loss == HiddenDistance(layer)


def test_a_number_of_blocks_is_asked_for_where_it_matters_alone():
    """Not every model has a list of blocks."""

    def refuse() -> int:
        raise InputError("no list of blocks")

    assert retentions_of(Bare(), BoundOptions(bound=1.0), MultiplierOptions(), refuse)
    with pytest.raises(InputError, match="no list of blocks"):
        retentions_of(Bare(), BoundOptions(bound=1.0, retention="hidden"), MultiplierOptions(), refuse)


def test_the_context_of_spans_is_held_by_a_bound_alone():
    with pytest.raises(InputError, match=r"^--keep_context holds by a bound, and steered has none unless it is asked"):
        chosen(Steered(), keep_context=True)
    with pytest.raises(InputError, match=r"^--keep_context holds by a bound, and this run has none; give --keep"):
        BoundOptions(keep_context=True, retain_weight=1)


def test_retentions_of_one_split_have_names_of_their_own():
    retentions = [*Steered.retention, Retention(NLL(), Fixed(), "forget", "context")]
    assert names_of(retentions) == ["retain", "retain_nll", "context"]


def test_a_bound_of_its_own_replaces_that_of_all():
    options = BoundOptions(keep=0.9, keep_of={"general": "0.99"}, bound_of={"lang": "0.4"})
    found = [Bound.of(options, name) for name in ("retain", "general", "lang", "context")]
    assert found == [Bound("keep", 0.9), Bound("keep", 0.99), Bound("bound", 0.4), Bound("keep", 0.9)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": 0.9, "keep_of": {"a": "2"}}, "--keep_of.a is 2.0; expected a share between 0 and 1, such as 0.98."),
        ({"keep": 0.9, "bound_of": {"a": "x"}}, "--bound_of.a is 'x'; expected a number."),
        (
            {"keep": 0.9, "bound_of": {"a": "1"}, "keep_of": {"a": "0.9"}},
            "--keep_of.a and --bound_of.a were given; expected one of the two.",
        ),
        (
            {"bound_of": {"a": "1"}},
            (
                "--bound_of is for one retention of a run under a bound; give --keep, --alpha or --bound for the "
                "others as well."
            ),
        ),
        ({"retain_weight": -1}, "--retain_weight is -1; expected a finite number of at least 0."),
        (
            {"retention_layer": 3},
            "--retention_layer is the block that --retention hidden reads; give both, or neither.",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, sentence):
    with pytest.raises(InputError) as caught:
        BoundOptions(**options)
    assert str(caught.value) == sentence


def test_another_bound_or_weight_on_the_command_line_replaces_that_of_the_file():
    assert override({"keep": 0.98}, {"retain_weight": 1.0}) == {"retain_weight": 1.0}
    assert override({"keep": "none", "retain_weight": 1.0}, {"bound": 0.3}) == {"bound": 0.3}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.jsonl", "a.jsonl"),
        ("retain=a.jsonl", "a.jsonl"),
        ("general=a.jsonl", {"general": "a.jsonl"}),
        ("./general=a.jsonl", "./general=a.jsonl"),
        (["a.jsonl"], "a.jsonl"),
        (["a.jsonl", "lang=b=c.jsonl"], {"retain": "a.jsonl", "lang": "b=c.jsonl"}),
        (["lang=b.jsonl", "a.jsonl"], {"lang": "b.jsonl", "retain": "a.jsonl"}),
        ({"general": "a=b", "lang": "c"}, {"general": "a=b", "lang": "c"}),
        (None, None),
    ],
)
def test_sources_of_what_is_kept_have_names(value, expected):
    found = kept_sources(value)
    assert found == expected
    assert kept_sources(found) == expected  # as a file holds it
    if isinstance(found, dict):
        assert [*found] == [*expected]


def test_a_text_that_is_a_file_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "general=a.jsonl").touch()
    assert kept_sources("general=a.jsonl") == "general=a.jsonl"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            ["a.jsonl", "b.jsonl"],
            "two sources of --retain are called 'retain'; expected --retain NAME=FILE, each with its own name.",
        ),
        ({"a b": "c"}, "--retain names a retention 'a b'; expected letters, digits and _ alone."),
        (["forget=a"], "--retain names a retention 'forget', which a run calls something else; give another name."),
        (["context=a"], "--retain names a retention 'context', which a run calls something else; give another name."),
    ],
)
def test_names_that_cannot_be_used_are_refused(value, sentence):
    with pytest.raises(InputError) as caught:
        kept_sources(value)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("value", [3, [], [3], {"a": 3}])
def test_what_names_no_source_is_refused(value):
    with pytest.raises(
        InputError, match=r"expected a file, name=FILE, a list of these, or a mapping of names to files"
    ):
        from_mapping(UnlearnConfig, {"model": "m", "forget": "f", "output_dir": "o", "retain": value})


def test_the_sources_are_splits_in_their_order():
    given = {"model": "m", "forget": "f", "output_dir": "o", "retain": ["lang=b", "a"]}
    config = from_mapping(UnlearnConfig, given)
    assert [*config.data.sources.items()] == [("forget", "f"), ("lang", "b"), ("retain", "a")]
    assert to_mapping(config)["retain"] == {"lang": "b", "retain": "a"}
