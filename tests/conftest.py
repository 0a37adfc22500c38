"""What all tests share: no network, one thread a worker, the shared folder, and small models.

The folder ``shared`` beside the checkout holds TOFU and two trained models; tests that need it are skipped without it.
"""

import os
import shutil
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported: its kernels without a GPU
if "PYTEST_XDIST_WORKER" in os.environ:
    # read when torch is first imported, here and in the commands that tests start: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `problems` and `tiny`, which several folders share

import pytest
from hypothesis import settings
from tiny import SPECIAL, VOCABULARY, write_tokenizer

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

TinyModel = Callable[..., Path]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout, or the one that AMNESTIC_SHARED names."""
    folder = Path(os.environ.get("AMNESTIC_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}; AMNESTIC_SHARED can name another")
    return folder


@pytest.fixture(scope="session")
def tofu(shared: Path) -> Path:
    """The folder of TOFU's files."""
    return shared / "tofu"


@pytest.fixture(scope="session")
def tiny_full(shared: Path) -> Path:
    """A small model that knows all of TOFU by heart."""
    return shared / "models" / "tofu-tiny-full"


@pytest.fixture(scope="session")
def tiny_retain90(shared: Path) -> Path:
    """The same, trained without ``forget10``."""
    return shared / "models" / "tofu-tiny-retain90"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """Make folders of small random models: ``tiny_model(tied=True, dtype="float32", spare_rows=0, seed=0)``.

    Each holds a Llama of width 32 with 2 layers and 2 heads, its tokenizer of 320 tokens, and `spare_rows` rows of the
    vocabulary that the tokenizer does not know. Equal arguments give the same folder: do not write to it.
    """

    @cache
    def make(tied: bool = True, dtype: str = "float32", spare_rows: int = 0, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("tiny-model")
        write_tokenizer(folder)
        write_model(folder, tied, dtype, VOCABULARY + spare_rows, seed)
        return folder

    return make


def write_model(folder: Path, tied: bool, dtype: str, vocabulary: int, seed: int) -> None:
    """Write a Llama with random weights, large enough that no two logits are alike."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=SPECIAL.index("<pad>"),
        bos_token_id=SPECIAL.index("<bos>"),
        eos_token_id=SPECIAL.index("<eos>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
