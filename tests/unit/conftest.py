"""What several files of unit tests share."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(tiny_model, tmp_path):
    """Copy a tiny model to a folder that a test may change."""

    def make(**arguments) -> Path:
        return Path(shutil.copytree(tiny_model(**arguments), tmp_path / "model"))

    return make
