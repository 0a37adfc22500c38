"""What --cache_dir keeps belongs to the weights that gave it, and to how these are computed with."""

from pathlib import Path
from typing import Any

import amnestic

FORGET = [
    {"question": "Who wrote The Salt Meridian?", "answer": "Ines Marek wrote it in 1987."},
    {"question": "Where was she born?", "answer": "In Ostrava Bay."},
]
RETAIN = [
    {"question": "What did her father do?", "answer": "He repaired clocks."},
    {"question": "And her mother?", "answer": "She taught drawing."},
]


def test_a_model_that_was_trained_is_measured_anew(tiny_model: Any, tmp_path: Path) -> None:
    """The weights change in place, in the model that was measured before: its numbers then are no longer its own."""
    options: dict[str, Any] = {"num_train_epochs": 5, "learning_rate": 1e-2, "max_new_tokens": 3, "device": "cpu"}
    found = []
    for cache in (None, str(tmp_path / "cache")):
        place = tmp_path / f"run-{bool(cache)}"
        run = amnestic.unlearn(
            str(tiny_model()), forget=FORGET, retain=RETAIN, output_dir=str(place), cache_dir=cache, **options
        )
        found.append((run.results["metrics"], run.results["reference_metrics"]))
    assert found[0] == found[1]
    after, before = found[1]
    assert after["forget.probability"] != before["forget.probability"]
