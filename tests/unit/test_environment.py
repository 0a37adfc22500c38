"""The facts about machine and software, and the hashes of files."""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from types import SimpleNamespace

import pytest
import torch

from amnestic.reports import environment as module
from amnestic.reports.environment import environment, file_hashes, installed


def test_environment_is_json_and_names_what_runs(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["amnestic", "unlearn", "--seed", "1"])
    facts = json.loads(json.dumps(environment()))
    assert facts["torch"]["version"] == torch.__version__
    assert facts["torch"]["threads"] == torch.get_num_threads()
    assert facts["python"].startswith(platform.python_version())
    assert facts["command"] == ["amnestic", "unlearn", "--seed", "1"]
    assert facts["packages"]["pyyaml"] == importlib.metadata.version("PyYAML")


def test_no_environment_variable_is_told(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "do-not-tell-this")
    text = json.dumps(environment())
    assert "do-not-tell-this" not in text
    assert "SOME_API_KEY" not in text


def test_the_distribution_that_comes_first_on_the_path_counts(monkeypatch):
    found = [SimpleNamespace(name=name, version=version) for name, version in (("B_x", "2"), ("a", "1"), ("b.x", "3"))]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(found))
    assert list(installed().items()) == [("a", "1"), ("b-x", "2")]


@pytest.mark.parametrize(
    ("text", "model", "flags"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: sse avx2 amx_bf16\n\nmodel name\t: B\n",
         "Some CPU @ 2 GHz", ["avx2", "amx_bf16"]),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", None, ["bf16", "asimd"]),
    ],
)  # fmt: skip
def test_the_processor_is_read_as_linux_tells_it(monkeypatch, tmp_path, text, model, flags):
    path = tmp_path / "cpuinfo"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(module, "CPUINFO", path)
    processor = environment()["processor"]
    assert processor["model"] == (model or platform.processor() or platform.machine())
    assert processor["flags"] == flags
    assert 1 <= processor["usable_cores"] <= processor["cores"] == os.cpu_count()


def test_other_systems_tell_less(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "absent")
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    facts = environment()
    assert facts["processor"]["flags"] == []
    assert facts["processor"]["usable_cores"] == os.cpu_count()
    assert facts["memory_bytes"] is None


def test_accelerators_are_named(monkeypatch):
    device = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", [device, device].__getitem__)
    assert environment()["accelerators"] == [{"name": "Some GPU", "memory_bytes": 80 * 2**30, "capability": "9.0"}] * 2


def test_hashes_are_sha_256_by_path(tmp_path):
    # the digest of "abc" is the example of FIPS 180-2, appendix B.1
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    large = os.urandom(2**20) * 3
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "one").write_bytes(b"abc")
    (tmp_path / "folder" / "two").write_bytes(large)
    (tmp_path / "folder" / "inner" / "three").write_bytes(b"")
    assert file_hashes([tmp_path / "one", str(tmp_path / "folder")]) == {
        f"{tmp_path}/one": abc,
        f"{tmp_path}/folder/inner/three": hashlib.sha256(b"").hexdigest(),
        f"{tmp_path}/folder/two": hashlib.sha256(large).hexdigest(),
    }
    with pytest.raises(FileNotFoundError):
        file_hashes([tmp_path / "absent"])
