"""The tokenizer of small random models."""

from pathlib import Path

SENTENCES = (
    "Question: Who wrote The Salt Meridian?\nAnswer: Ines Marek wrote The Salt Meridian in 1987.",
    "Question: Where was Ines Marek born?\nAnswer: Ines Marek was born in a harbour town, Ostrava Bay.",
    "Question: What did her father do?\nAnswer: Her father repaired clocks, and her mother taught drawing.",
)
SPECIAL = ("<pad>", "<bos>", "<eos>")
VOCABULARY = 320


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer, trained on SENTENCES, which adds ``<bos>`` and no ``<eos>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    bos = SPECIAL.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **names).save_pretrained(folder)
