"""Configurations: from and to flat mappings and YAML, and what a wrong one is told."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amnestic.config import (
    DemoConfig,
    FinetuneConfig,
    UnlearnConfig,
    from_mapping,
    options,
    override,
    read_yaml,
    to_mapping,
    write_yaml,
)
from amnestic.errors import InputError

REQUIRED = {"model": "m", "forget": "f.jsonl", "retain": "r.jsonl", "output_dir": "run"}
CONFIGS = [UnlearnConfig, FinetuneConfig, DemoConfig]
TEXT = st.text(max_size=30)
UNUSUAL = st.sampled_from(
    ["no", "null", "1e-5", "010", "2025-04-10", "", " x", "a: b", "# x", "- y", "ü\u2028\x07", "~"]
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_option_is_described(config_class):
    assert [option.name for option in options(config_class) if len(option.help) < 10] == []


@pytest.mark.parametrize("config_class", CONFIGS)
def test_no_two_groups_share_a_name(config_class):
    names = [option.name for option in options(config_class)]
    assert len(names) == len(set(names))


def test_groups_come_in_reading_order_with_required_options_first():
    found = options(UnlearnConfig)
    titles = list(dict.fromkeys(option.group for option in found))
    assert titles[:4] == ["Run", "Model", "Data", "Method"]
    assert titles[4:] == [
        "Retention",
        "Multiplier",
        "Training",
        "Adapter",
        "Evaluation",
        "Sharding",
        "Checkpoints",
        "Tracking",
        "Hub",
    ]
    assert [option.name for option in found if option.group == "Data"][:3] == ["forget", "retain", "benchmark"]
    assert {option.name for option in found if option.required} == set(REQUIRED) - {
        "forget",
        "retain",
    }  # or a benchmark


def test_a_subclass_redefines_default_and_description():
    epochs = {option.name: option for option in options(FinetuneConfig)}["num_train_epochs"]
    assert epochs.default == 5.0
    assert epochs.help == "Passes over the data."


@settings(max_examples=60, deadline=None)
@given(
    st.fixed_dictionaries(
        {key: TEXT.filter(bool) | UNUSUAL.filter(bool) for key in REQUIRED},
        optional={
            "overwrite": st.booleans(),
            "model_revision": st.none() | TEXT | UNUSUAL,
            "learning_rate": st.floats(1e-300, 1e300),
            "max_steps": st.none() | st.integers(1, 10**12),
            "keep": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
            "template_args": st.dictionaries(TEXT | UNUSUAL, TEXT | UNUSUAL),
            "question_template": TEXT.map("{{question}}{}".format),
            "optim": st.sampled_from(["adamw_torch", "sgd"]),
        },
    )
)
def test_yaml_gives_back_the_same_configuration(tmp_path_factory, mapping):
    config = from_mapping(UnlearnConfig, mapping)
    assert {key: to_mapping(config)[key] for key in mapping} == mapping
    path = tmp_path_factory.mktemp("yaml") / "config.yaml"
    write_yaml(config, path)
    assert from_mapping(UnlearnConfig, read_yaml(path)) == config
    assert [found.name for found in path.parent.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("config_class", [FinetuneConfig, DemoConfig])
def test_the_other_configurations_come_back_too(tmp_path, config_class):
    given = (
        {"model": "m", "data": "d", "output_dir": "o", "from_scratch": True} if config_class is FinetuneConfig else {}
    )
    config = from_mapping(config_class, given)
    write_yaml(config, tmp_path / "config.yaml")
    assert from_mapping(config_class, read_yaml(tmp_path / "config.yaml")) == config


def test_written_yaml_is_grouped_and_readable(tmp_path):
    write_yaml(from_mapping(UnlearnConfig, REQUIRED | {"bound": 0.05}), tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert text.startswith(
        "# Run\noutput_dir: run\noverwrite: false\nredact: false\n\n# Model\nmodel: m\nmodel_revision: null\n"
    )
    assert '\nquestion_template: "Question: {question}\\nAnswer:"\n' in text
    assert "\n# Retention\nkeep: null\nalpha: null\nbound: 0.05\n" in text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("12:30:45", "12:30:45"),
        ("2025-04-10", "2025-04-10"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("", None),
        ("'1e-5'", "1e-5"),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path, text, value):
    read = read_yaml(write(tmp_path, f"key: {text}\n"))["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "place", "found"),
    [
        ("seed: 1\n\nlearning_rate: 1\nseed: 2\n", ", line 4", "'seed' comes twice"),
        ("template_args:\n  a: 1\n  a: 2\n", ", line 3", "'a' comes twice"),
        ("seed: 1\nmodel: [a\n", ", line 3", "expected"),
        ("seed: 1\n\tmodel: a\n", ", line 2", "cannot start any token"),
        ("? [a]\n: 1\n", ", line 1", "unhashable key"),
        ("- a\n- b\n", "", "a list"),
        ("just words", "", "a str"),
        ("key: \x01\n", "", "special characters"),
        ("key: !!python/object:os.system {}\n", ", line 1", "constructor"),
    ],
)
def test_broken_yaml_is_placed(tmp_path, text, place, found):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_yaml(path)
    assert f"{path}{place}" in str(error.value)
    assert found in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml is no UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(InputError, match=r"cannot read .*absent\.yaml: No such file"):
        read_yaml(tmp_path / "absent.yaml")
    assert read_yaml(write(tmp_path, "# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("learning_rate", "fast", "a finite number"),
        ("learning_rate", True, "a finite number"),
        ("learning_rate", float("nan"), "a finite number"),
        ("learning_rate", None, "a finite number"),
        ("keep", "most", "a finite number or none"),
        ("max_steps", 1.5, "a whole number"),
        ("seed", False, "a whole number"),
        ("overwrite", "yes", "true or false"),
        ("overwrite", 1, "true or false"),
        ("model", 7, "text (in quotes, where it looks like a number)"),
        ("dtype", "float16", "one of auto, float32, bfloat16"),
        ("template_args", "a=b", "a mapping of names to values"),
        ("template_args", {"a": [1]}, "text (in quotes, where it looks like a number)"),
    ],
)
def test_wrong_types_name_key_file_found_and_expected(key, value, expected):
    with pytest.raises(InputError) as error:
        from_mapping(UnlearnConfig, REQUIRED | {key: value}, "run.yaml")
    assert str(error.value) == f"{key} in run.yaml is {value!r}; expected {expected}."


def test_unknown_keys_name_the_nearest():
    with pytest.raises(InputError) as error:
        from_mapping(UnlearnConfig, REQUIRED | {"learning-rate": 1}, "run.yaml")
    assert str(error.value) == "unknown key 'learning-rate' in run.yaml; did you mean 'learning_rate'?"
    with pytest.raises(InputError, match=r"^unknown key 'zzz'\.$"):
        from_mapping(UnlearnConfig, REQUIRED | {"zzz": 1})


def test_missing_options_are_all_named():
    with pytest.raises(InputError, match=r"^missing --output_dir, --retain; expected on the command line or"):
        from_mapping(UnlearnConfig, {"model": "m", "forget": "f"})


def test_values_take_the_type_of_their_option():
    config = from_mapping(
        UnlearnConfig,
        REQUIRED | {"forget": Path("f"), "learning_rate": 1, "method_args": {"beta": 0.1, "on": True, "mode": "x"}},
    )
    assert config.data.forget == "f"
    assert type(config.training.learning_rate) is float
    assert config.method.method_args == {"beta": "0.1", "on": "true", "mode": "x"}


def test_groups_keep_their_own_checks():
    with pytest.raises(InputError, match="--keep and --bound were given"):
        from_mapping(UnlearnConfig, REQUIRED | {"keep": 0.9, "bound": 0.1})
    with pytest.raises(InputError, match="--output_dir is empty"):
        from_mapping(UnlearnConfig, REQUIRED | {"output_dir": ""})
    with pytest.raises(InputError, match="--keep is 1"):
        DemoConfig(keep=1.0)
    with pytest.raises(InputError, match="--seed is -1"):
        DemoConfig(seed=-1)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DemoConfig().seed = 1


@pytest.mark.parametrize(
    ("base", "given", "merged"),
    [
        ({"seed": 1, "model": "m"}, {"seed": 2}, {"seed": 2, "model": "m"}),
        ({"keep": 0.9, "alpha": None}, {"bound": 0.1}, {"bound": 0.1}),
        ({"max_steps": 5, "seed": 1}, {"num_train_epochs": 2.0}, {"num_train_epochs": 2.0, "seed": 1}),
        ({"warmup_steps": 5}, {"warmup_epochs": 2.0}, {"warmup_epochs": 2.0}),
        ({"max_steps": 5, "num_train_epochs": 3}, {"max_steps": None}, {"max_steps": None, "num_train_epochs": 3}),
        ({"method_args": {"a": 1, "b": 2}}, {"method_args": {"b": 3}}, {"method_args": {"a": 1, "b": 3}}),
    ],
)
def test_what_is_given_overrides_the_base_and_its_rivals(base, given, merged):
    assert override(base, given) == merged


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("wandb", ("wandb",)),
        ("wandb,tensorboard", ("wandb", "tensorboard")),
        (" wandb , tensorboard ", ("wandb", "tensorboard")),
        (["wandb", "tensorboard"], ("wandb", "tensorboard")),
        (("wandb",), ("wandb",)),
        ("none", ()),
        ([], ()),
        ("", ()),
    ],
)
def test_names_come_as_a_list_or_with_commas(tmp_path, value, expected):
    config = from_mapping(UnlearnConfig, REQUIRED | {"report_to": value})
    assert config.tracking.report_to == expected
    write_yaml(config, tmp_path / "config.yaml")
    assert from_mapping(UnlearnConfig, read_yaml(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize("value", [3, True, ["wandb", 3], {"wandb": 1}, None])
def test_what_is_no_list_of_names_is_refused(value):
    with pytest.raises(InputError, match=r"report_to is .*; expected names, in a list or with commas between them\."):
        from_mapping(UnlearnConfig, REQUIRED | {"report_to": value})
