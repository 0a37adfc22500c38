"""The paper's settings: what they say, what they need, and how a run's numbers stand beside published ones."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig

import amnestic
from amnestic import processes
from amnestic.benching.plan import Plan, bench_config
from amnestic.cli import main
from amnestic.config import read_yaml
from amnestic.errors import InputError
from amnestic.evaluation.metric import METRICS
from amnestic.methods.base import METHODS
from amnestic.outcomes import show_settings
from amnestic.reports.places import lock_folder
from amnestic.reports.seeds import Spread
from amnestic.reproducing import main as reproducing
from amnestic.reproducing import settings as places
from amnestic.reproducing.main import departures, reproduce_config
from amnestic.reproducing.outcome import MEASURED, Reproduction
from amnestic.reproducing.settings import find, read_published, settings, shape_of

FOLDER = Path(__file__).parents[2] / "configs" / "paper"
EPOCHS = {"llama-3.2-1b": 10, "llama-3.2-3b": 10, "llama-3.1-8b": 30, "gemma-7b": 20}
BOUNDS = {"books-llama-2-7b": 0.1, "books-llama-2-13b": 0.6, "news-llama-2-7b": 1.5, "news-llama-2-13b": 0.8}
"""Of the script that the paper's authors published."""
PUBLISHED = {
    f"tofu-{model}-{split}": (0.3, 100, 5, 5, epochs, 128, "linear", 0.01)
    for model, epochs in EPOCHS.items()
    for split in ("forget01", "forget05", "forget10")
} | {f"muse-{name}": (bound, 50, 1, 3, 10, 256, "constant", 0.0) for name, bound in BOUNDS.items()}
"""Setting -> bound, multiplier, its rate and warm-up, epochs, rows a step on 8 GPUs, schedule, weight decay."""
TOFU = "tofu-llama-3.2-1b-forget01"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_setting_says_what_was_published(name):
    config = find(name).config
    training, multiplier = config.training, config.multiplier
    said = (
        config.bound.bound,
        multiplier.multiplier_initial,
        multiplier.multiplier_rate,
        multiplier.multiplier_warmup_epochs,
        training.num_train_epochs,
        training.per_device_train_batch_size * training.gradient_accumulation_steps,
        training.lr_scheduler_type,
        training.weight_decay,
    )
    assert said == PUBLISHED[name]
    assert (config.method.method, config.model.dtype) == ("pdu", "bfloat16")
    assert (training.learning_rate, training.optim, training.retain_per_forget) == (1e-5, "paged_adamw_32bit", 1)


def test_there_are_as_many_settings_as_published_runs():
    assert {setting.name for setting in settings()} == set(PUBLISHED)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*-*.yaml")), ids=lambda path: path.stem)
def test_every_value_has_a_source_beside_it(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.stem.startswith("baselines"):
        assert set(read_yaml(path)) == {name for name in METHODS.names() if METHODS.get(name).in_all}
        assert "# Sources:" in lines
        return
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps", "metrics")  # explained by the line above
    assert not [line for line in lines if ":" in line and "#" not in line and not line.startswith(batch)]


@pytest.mark.parametrize(
    ("file", "benchmark"), [("tofu", "tofu:forget10"), ("muse-books", "muse:books"), ("muse-news", "muse:news")]
)
def test_the_baselines_are_settings_of_a_comparison(file, benchmark):
    options = {"benchmark": benchmark, "model": "m", "keep": "0.98,none", "output_dir": "out"}
    plan = Plan.of(bench_config(options | {"settings": str(FOLDER / f"baselines-{file}.yaml")}))
    own = {contestant.method: plan.unlearning(contestant, 0) for contestant in plan.contestants}
    assert {name for name, config in own.items() if config.training.learning_rate == 1e-5} >= {
        "npo",
        "grad_diff",
        "pdu",
    }
    assert own["pdu"].multiplier.multiplier_initial == (100 if file == "tofu" else 50)


@pytest.mark.parametrize(
    ("model", "million", "megabytes"),
    [
        ("open-unlearning/tofu_Llama-3.2-1B-Instruct_full", 1235.8144, 2.1),
        ("open-unlearning/tofu_Llama-3.2-3B-Instruct_full", 3212.749824, 4.6),
        ("open-unlearning/tofu_Llama-3.1-8B-Instruct_full", 8030.261248, 7.9),
        ("tamarsonha/TOFU-target-gemma-7b-it", 8537.680896, None),
        ("muse-bench/MUSE-Books_target", 6738.415616, None),
        ("tamarsonha/MUSE-News-target-Llama-2-13b-hf", 13015.86432, 11),
    ],
)
def test_parameters_are_counted_as_transformers_makes_them(model, million, megabytes):
    """As the models' pages give them, and as a model of the shape has them; bytes a token as they were measured."""
    shape = shape_of(model)
    kind = GemmaConfig if "gemma" in model else LlamaConfig
    head = 256 if "gemma" in model else 128 if shape.width > 2048 else 64
    config = kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.query_width // head,
        num_key_value_heads=shape.key_width // head,
        head_dim=head,
        tie_word_embeddings=shape.is_tied,
    )
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(parameter.numel() for parameter in built.parameters()) == round(million * 1e6)
    if megabytes is not None:
        assert shape.activation_bytes(checkpointing=False) / 1e6 == pytest.approx(megabytes, abs=0.05)


def test_memory_by_hand():
    """8B: 16 bytes for each of 8,030,261,248 parameters, and 4 x 256 tokens of 7,864,320 bytes.

    128.5 GB and 8.05 GB. A GPU of 80 GB has 72 to fill: 63.9 beside the activations, so 128.5 need three.
    """
    demand = find("tofu-llama-3.1-8b-forget10").demand
    assert demand.activation_bytes == 1024 * 2 * 32 * (16 * 4096 + 4 * 14336)
    assert demand.memory_bytes == 16 * 8_030_261_248 + demand.activation_bytes
    assert demand.gpus == 3
    assert find("tofu-llama-3.2-1b-forget10").demand.gpus == 1


def test_checkpointing_leaves_what_enters_a_block_and_the_inside_of_one():
    """7B: 2 bytes of 32 x 4096 numbers, and of 16 x 4096 + 4 x 11008."""
    assert shape_of("muse-bench/MUSE-Books_target").activation_bytes(checkpointing=True) == 2 * (131_072 + 109_568)


def test_the_public_retrained_model_is_held_beside_the_public_one(tmp_path):
    asked = {"name": TOFU, "output_dir": str(tmp_path)}
    assert reproduce_config(asked).evaluation.retrained == "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain99"
    assert reproduce_config(asked | {"model": "small"}).evaluation.retrained is None
    assert reproduce_config(asked | {"retrained": "mine"}).evaluation.retrained == "mine"


def test_another_model_brings_its_own_tokenizer(tmp_path):
    asked = {"name": "muse-books-llama-2-7b", "output_dir": str(tmp_path)}
    assert reproduce_config(asked).model.tokenizer == "meta-llama/Llama-2-7b-hf"
    assert reproduce_config(asked | {"model": "small"}).model.tokenizer is None
    assert reproduce_config(asked | {"model": "small", "tokenizer": "t"}).model.tokenizer == "t"
    assert reproduce_config(asked | {"model": "muse-bench/MUSE-Books_target"}).model.tokenizer is not None


def test_settings_are_found_in_a_checkout_and_in_an_installed_package(tmp_path, monkeypatch):
    installed = Path(shutil.copytree(FOLDER, tmp_path / "configs" / "paper"))
    monkeypatch.setattr(places, "PLACES", (installed, tmp_path / "none"))
    assert len(settings()) == 16
    monkeypatch.setattr(places, "PLACES", (tmp_path / "none", FOLDER))
    assert len(settings()) == 16
    monkeypatch.setattr(places, "PLACES", (tmp_path / "none",))
    with pytest.raises(InputError, match="holds the published settings; install amnestic again"):
        settings()


def test_published_numbers_are_of_settings_metrics_and_sources_that_exist():
    content = read_published()
    sources = content.pop("sources")
    assert set(content) <= set(PUBLISHED)
    used = set()
    for entry in (entry for entries in content.values() for entry in entries):
        used.add(entry["source"])
        assert set(entry) == {"of", "metric", "values", "source"}
        assert entry["of"] in MEASURED
        assert entry["metric"].rpartition(".")[2] in METRICS.names()
        assert entry["values"]
        assert all(isinstance(value, int | float) for value in entry["values"])
    assert used == set(sources)
    assert all(set(facts) == {"title", "url", "conditions"} for facts in sources.values())


def given(**options):
    return reproduce_config({"name": TOFU, "output_dir": "out"} | options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 3, "seeds": 2},
        {"optim": "adamw_torch"},
        {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 8},
        {"metrics": "all", "gradient_checkpointing": True, "retrained": "mine", "redact": True},
    ],
)
def test_what_changes_no_number_is_no_departure(options):
    assert departures(find(TOFU), given(**options)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"keep": 0.9},
            ["--keep is 0.9, published not given", "--bound is not given, published 0.3"],
        ),
        ({"model": "m"}, ["--model is m, published open-unlearning/tofu_Llama-3.2-1B-Instruct_full"]),
        ({"data": "d"}, ["--data is d, published not given"]),
        ({"gradient_accumulation_steps": 8}, ["the effective batch is 32, published 128"]),
        ({"optim": "sgd"}, ["--optim is sgd, published AdamW"]),
    ],
)
def test_what_changes_the_conditions_is_said(options, said):
    assert departures(find(TOFU), given(**options)) == said


def test_the_rows_of_all_processes_are_counted(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 8)
    assert departures(find(TOFU), given()) == ["the effective batch is 1024, published 128"]
    assert departures(find(TOFU), given(gradient_accumulation_steps=4)) == []


def outcome(*utilities: float, name: str = TOFU) -> Reproduction:
    found = {
        seed: {"status": "feasible", "verdict": "held", "metrics": {"model_utility_ou": utility}}
        for seed, utility in enumerate(utilities)
    }
    return Reproduction(name, Path("out"), [], found)


def row(reproduction: Reproduction, metric: str, of: str = "after"):
    return next(row for row in reproduction.rows if (row.metric, row.of) == (metric, of))


def test_both_sides_over_seeds_by_hand():
    """Ours: 0.5 and 0.7, mean 0.6, standard error 0.1, times 12.706 for one degree of freedom, cut to [0, 1].

    Theirs: the mean of 0.6019, 0.6025, 0.6021, 0.6014 and 0.6018 is 0.60194; the squared distances from it add up to
    6.52e-7, so the standard error is sqrt(6.52e-7 / 4 / 5) = 1.8055e-4, times 2.7764 for four degrees of freedom.
    """
    found = row(outcome(0.5, 0.7), "model_utility_ou")
    assert (found.ours.mean, found.ours.low, found.ours.high) == pytest.approx((0.6, 0.0, 1.0))
    assert found.published.mean == pytest.approx(0.60194)
    assert found.published.high - found.published.mean == pytest.approx(2.7764 * 1.8055e-4, rel=1e-3)
    assert found.difference == pytest.approx(0.6 - 0.60194)
    assert (found.published.count, found.source) == (5, "blade")


def test_one_seed_has_no_tolerance():
    found = outcome(0.5)
    assert row(found, "model_utility_ou").ours == Spread(0.5, None, None, 1)
    assert any("there is no tolerance" in note for note in found.notes)
    assert not any("there is no tolerance" in note for note in outcome(0.5, 0.6).notes)


def test_what_nobody_published_and_what_was_not_measured_is_said():
    found = outcome(0.5, name="tofu-gemma-7b-forget10")
    assert row(found, "model_utility_ou").published is None
    assert row(found, "model_utility_ou").difference is None
    assert row(found, "forget.rouge").ours is None
    assert found.notes[-1] == "no published number of the unlearned model is known here."
    assert found.sources == {}


def test_the_model_before_counts_once():
    found = replace(
        outcome(0.5, 0.6),
        results={
            seed: {"status": "feasible", "verdict": "", "reference_metrics": {"model_utility_ou": 0.59}}
            for seed in range(2)
        },
    )
    assert row(found, "model_utility_ou", "before").ours == Spread(0.59, None, None, 1)


@pytest.fixture
def ran(monkeypatch):
    """Runs that were asked for, in place of running them; each leaves the results of its seed."""
    asked = []

    def run(config, progress=None):
        asked.append(config)
        folder = Path(config.run.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        status = "infeasible" if config.training.seed == 9 else "feasible"
        results = {"status": status, "verdict": f"held {config.training.seed}", "metrics": {"forget.rouge": 0.3}}
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        return SimpleNamespace(results=results)

    monkeypatch.setattr(reproducing, "run_unlearn", run)
    return asked


def test_every_seed_has_a_folder_and_is_run_once(ran, tmp_path):
    folder = tmp_path / "out"
    amnestic.reproduce(TOFU, output_dir=folder, seeds=2)
    assert [Path(config.run.output_dir).name for config in ran] == ["seed-0", "seed-1"]
    assert [config.training.seed for config in ran] == [0, 1]
    found = amnestic.reproduce(TOFU, output_dir=folder, seeds=3)
    assert [config.training.seed for config in ran] == [0, 1, 2]
    assert row(found, "forget.rouge").ours.count == 3
    written = json.loads((folder / "reproduction.json").read_text(encoding="utf-8"))
    assert written["seeds"] == {"0": "held 0", "1": "held 1", "2": "held 2"}
    again = reproduce_config(read_yaml(folder / "reproduce.yaml"))
    assert again.reproduce.seeds == 3


@pytest.mark.parametrize(
    ("optim", "expected"), [("adamw_torch", ("latest", False)), ("paged_adamw_32bit", (None, True))]
)
def test_an_interrupted_run_goes_on_where_its_optimiser_can(ran, tmp_path, optim, expected):
    amnestic.reproduce(TOFU, output_dir=tmp_path / "out", optim=optim)
    assert (ran[0].checkpoints.resume_from_checkpoint, ran[0].run.overwrite) == (None, False)
    (tmp_path / "out" / "seed-0" / "results.json").unlink()
    amnestic.reproduce(TOFU, output_dir=tmp_path / "out", optim=optim)
    assert (ran[1].checkpoints.resume_from_checkpoint, ran[1].run.overwrite) == expected


def test_another_run_in_the_folder_is_refused_and_replaced_on_request(ran, tmp_path):
    folder = tmp_path / "out"
    amnestic.reproduce(TOFU, output_dir=folder)
    with pytest.raises(InputError, match=r"--learning_rate is 0\.001 here and was 1e-05; give --overwrite"):
        amnestic.reproduce(TOFU, output_dir=folder, learning_rate=1e-3)
    with pytest.raises(InputError, match="the effective batch is 32 here and was 128; give --overwrite"):
        amnestic.reproduce(TOFU, output_dir=folder, gradient_accumulation_steps=8, seeds=2)
    amnestic.reproduce(TOFU, output_dir=folder, learning_rate=1e-3, overwrite=True)
    assert ran[-1].run.overwrite
    assert read_yaml(folder / "reproduce.yaml")["overwrite"] is False
    with pytest.raises(InputError, match="is not empty, and no reproduction is in it"):
        amnestic.reproduce(TOFU, output_dir=tmp_path)
    with pytest.raises(InputError, match="goes on by itself"):
        amnestic.reproduce(TOFU, output_dir=folder, resume_from_checkpoint="latest")


def test_wrong_input_leaves_the_folder_as_it_was(ran, tmp_path, monkeypatch):
    def refuse(config, progress=None):
        raise InputError("no.")

    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(reproducing, "run_unlearn", refuse)
        with pytest.raises(InputError, match="no"):
            amnestic.reproduce(TOFU, output_dir=folder)
    assert not folder.exists()
    amnestic.reproduce(TOFU, output_dir=folder)
    before = (folder / "reproduce.yaml").read_text(encoding="utf-8")
    monkeypatch.setattr(reproducing, "run_unlearn", refuse)
    with pytest.raises(InputError, match="no"):
        amnestic.reproduce(TOFU, output_dir=folder, seeds=2)
    assert (folder / "reproduce.yaml").read_text(encoding="utf-8") == before


def test_results_of_other_options_are_not_taken_after_an_interrupted_replacement(ran, tmp_path):
    folder = tmp_path / "out"
    amnestic.reproduce(TOFU, output_dir=folder, seeds=2)
    amnestic.reproduce(TOFU, output_dir=folder, learning_rate=1e-3, overwrite=True)  # seed 1 is that of before
    amnestic.reproduce(TOFU, output_dir=folder, learning_rate=1e-3, seeds=2)
    assert [(config.training.seed, config.run.overwrite) for config in ran[2:]] == [(0, True), (1, True)]


def test_a_later_seed_that_is_refused_leaves_the_earlier_ones(ran, tmp_path, monkeypatch):
    run = reproducing.run_unlearn

    def refuse(config, progress=None):
        if config.training.seed == 1:
            raise InputError("no.")
        return run(config, progress)

    monkeypatch.setattr(reproducing, "run_unlearn", refuse)
    with pytest.raises(InputError, match="no"):
        amnestic.reproduce(TOFU, output_dir=tmp_path / "out", seeds=2)
    monkeypatch.setattr(reproducing, "run_unlearn", run)
    amnestic.reproduce(TOFU, output_dir=tmp_path / "out", seeds=2)
    assert [config.training.seed for config in ran] == [0, 1]


def test_a_redacted_reproduction_goes_on(ran, tmp_path):
    for seeds in (1, 2):
        amnestic.reproduce(TOFU, output_dir=tmp_path / "out", redact=True, seeds=seeds)
    assert [config.training.seed for config in ran] == [0, 1]


@pytest.mark.parametrize(("redact", "more"), [(False, "$"), (True, r" --system_prompt \.\.\. \(whose text the file")])
def test_an_interrupted_reproduction_says_how_it_goes_on(tmp_path, monkeypatch, redact, more):
    def interrupt(config, progress=None):
        with pytest.raises(InputError, match="another process is writing in"):
            os.close(lock_folder(tmp_path / "out"))
        raise KeyboardInterrupt

    monkeypatch.setattr(reproducing, "run_unlearn", interrupt)
    with pytest.raises(amnestic.Interrupted, match=rf"amnestic reproduce --config .*reproduce\.yaml{more}"):
        amnestic.reproduce(TOFU, output_dir=tmp_path / "out", redact=redact)


def test_the_command_lists_all_settings(capsys):
    assert main(["reproduce", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(PUBLISHED)
    facts = listed[TOFU]
    assert facts["models"] == [
        "open-unlearning/tofu_Llama-3.2-1B-Instruct_full",
        "open-unlearning/tofu_Llama-3.2-1B-Instruct_retain99",
    ]
    assert facts["download_bytes"] == 2 * 2 * 1_235_814_400
    assert facts["options"]["bound"] == 0.3
    assert main(["reproduce"]) == 0
    assert "muse-news-llama-2-13b" in capsys.readouterr().out


@pytest.mark.parametrize(("width", "has_models"), [(60, False), (80, False), (200, True)])
def test_the_list_cuts_no_name_in_a_narrow_terminal(width, has_models):
    console = Console(file=io.StringIO(), width=width)
    show_settings(console, settings())
    shown = console.file.getvalue()
    assert all(name in shown for name in PUBLISHED)
    assert ("muse-bench/MUSE-News_target" in shown) is has_models


def test_the_command_shows_departures_first_and_exits_by_the_bound(ran, tmp_path, capsys):
    """The published mean of 0.3148, 0.3245, 0.3052, 0.3047 and 0.3161 is 0.31306.

    The squared distances add up to 2.749e-4, so the interval reaches 2.7764 x sqrt(2.749e-4 / 4 / 5) = 0.0103 from it.
    """
    assert main(["reproduce", TOFU, "--keep", "0.9", "--output_dir", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "not as published: --keep is 0.9, published not given"
    assert "these are not the published conditions: --keep is 0.9" in shown.err
    line = next(line for line in lines if line.startswith("after") and "forget.rouge" in line)
    assert line.split() == ["after", "forget.rouge", "0.3", "0.3131", "[0.3028,", "0.3234]", "-0.01306", "blade"]
    assert "not measured" in shown.out
    assert main(["reproduce", TOFU, "--seed", "9", "--output_dir", str(tmp_path / "nine"), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["status"] == "infeasible"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tofu-llama-3.2-1b-forget1"], "unknown setting 'tofu-llama-3.2-1b-forget1'; did you mean"),
        (["--keep", "0.9"], "error: --name is missing, the published setting to run; amnestic reproduce, with nothing"),
        ([TOFU], "missing --output_dir"),
        ([TOFU, "--output_dir", "out", "--seeds", "0"], "--seeds is 0; expected at least 1."),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, capsys):
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
