"""The public names: all there, and imported when first used."""

import importlib.metadata
import subprocess
import sys

import pytest

import amnestic


def test_every_public_name_is_there():
    assert set(amnestic.__all__) <= set(dir(amnestic))
    for name in amnestic.__all__:
        assert getattr(amnestic, name) is not None
    assert amnestic.unlearn.__module__ == amnestic.finetune.__module__ == "amnestic.run"
    assert amnestic.PDU.name == "pdu"
    assert amnestic.__version__ == importlib.metadata.version("amnestic")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'amnestic' has no attribute 'unlern'"):
        amnestic.unlern  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    program = (
        "import sys, amnestic; dir(amnestic); print([name for name in sys.modules if name.startswith('amnestic.')])"
    )
    command = [sys.executable, "-c", f"{program}; amnestic.UnlearnConfig; print('torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\nFalse\n"
