"""``amnestic sequence``: requests one after another, within the bound of the first model."""

import json

import pytest

NAMES = ("may", "june", "july")


@pytest.fixture(scope="module")
def files(people, as_file, tmp_path_factory):
    """Three requests: one person, another, and two."""
    folder = tmp_path_factory.mktemp("requests")
    parts = zip(NAMES, (slice(0, 3), slice(3, 6), slice(6, 12)), strict=True)
    return [as_file(folder / f"{name}.jsonl", people.rows["forget"][part]) for name, part in parts]


@pytest.fixture(scope="module")
def options(people, forgetting):
    """The options of a sequence."""
    own = {"model": people.model, "retain": people.file("retain"), "metrics": "probability,token_probability"}
    return own | forgetting | {"num_train_epochs": 20}


@pytest.fixture(scope="module")
def met(command, options, files, tmp_path_factory):
    """The sequence of all three."""
    folder = tmp_path_factory.mktemp("sequence") / "out"
    return command("sequence", options | {"requests": ",".join(map(str, files)), "output_dir": folder})


@pytest.fixture(scope="module")
def told(met):
    assert met.status == 0, met.err
    return json.loads((met.folder / "sequence.json").read_text(encoding="utf-8"))


def of_run(folder, number):
    name = f"{number}-{NAMES[number - 1]}"
    return json.loads((folder / "requests" / name / "results.json").read_text(encoding="utf-8"))


def test_dump(met, told):
    print(met.out)
    print(json.dumps(told, indent=1)[:3000])
