"""What a run found: the schema of results.json, and the comparison of the models before and after.

results.json is a public format: `Results` documents it, and `SCHEMA` counts its incompatible changes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from ..errors import InputError
from ..evaluation.explanation import describe
from .files import JsonLines, read_json, read_jsonl, write_json, write_text

__all__ = [
    "SCHEMA",
    "BoundFacts",
    "CandidateFacts",
    "Comparison",
    "JsonLines",
    "MultiplierFacts",
    "PromptFacts",
    "Results",
    "RetentionFacts",
    "SplitFacts",
    "TemplateFacts",
    "TrainingFacts",
    "bounds_of",
    "comparison",
    "read_json",
    "read_jsonl",
    "read_results",
    "write_json",
    "write_text",
]

SCHEMA = 1


class BoundFacts(TypedDict):
    """The stated bound and what was measured against it: losses on a probe, in nats a token if they have a unit."""

    kind: Literal["keep", "alpha", "bound"]
    """The form in which the bound was stated."""
    requested: float
    """The stated number: a share of probability, a relative rise, or nats a token."""
    L_ref: float
    """Loss before unlearning; where there is a `bound_model`, of that one."""
    bound_model: NotRequired[str]
    """The model that the bound starts from, where the run started from another one."""
    L_start: NotRequired[float]
    """Loss of the model that the run started from, where that is another one."""
    value: float
    """The bound itself."""
    reached: float
    """Loss after unlearning."""
    upper_limit: float | None
    """One-sided upper confidence limit of `reached`; it decides nothing where the probe is the whole split."""
    probe_size: int
    """Examples in the probe."""
    held_out: bool
    """Whether training never drew the probe's examples."""
    whole_split: bool
    """Whether the probe is the whole retain split, so that `reached` is exact."""
    confidence: float
    """Level of `upper_limit`."""


class CandidateFacts(TypedDict):
    """One measured candidate for the weights that a run writes."""

    step: int
    epoch: float
    forget_loss: float
    """The method's loss on the forget rows."""
    token_logp: NotRequired[float]
    """Mean log-probability of a token to be forgotten, where candidates are ranked by it: of methods whose gradient
    takes parts of the loss as constants, so that its value tells little."""
    reached: NotRequired[float]
    """Loss on the probe of the leading split, nats a token; those of others stand under ``NAME_reached``. Absent, as
    what follows, where there is no bound."""
    upper_limit: NotRequired[float | None]
    """Its one-sided upper confidence limit."""
    context_reached: NotRequired[float]
    """Loss around the marked spans, where that is held too."""
    holds: NotRequired[bool]
    """Whether every bound was held."""


class SplitFacts(TypedDict):
    """What was read for one split."""

    source: str
    """File, folder or data set."""
    rows: NotRequired[int]
    """Rows of the source."""
    duplicates: NotRequired[int]
    """Rows that repeat an earlier one."""
    examples: int
    """What became of them: a long text is several examples."""
    scored_tokens: int
    too_long: int
    """Rows beyond the length limit."""
    left_out: NotRequired[int]
    """Rows of which nothing was used."""
    longest: int
    """Tokens of the longest example."""
    span_examples: NotRequired[int]
    """Examples with a span that is marked to be forgotten; absent where no row marks one."""
    span_tokens: NotRequired[int]
    """Scored tokens that overlap such a span."""


class TemplateFacts(TypedDict):
    """How prompts were rendered."""

    kind: str
    """``chat``, ``question``, ``text``, ..."""
    arguments: NotRequired[Mapping[str, Any]]
    """Arguments of the chat template, or the question template's two parts."""
    first_prompt_sha256: NotRequired[str]
    """Hash of the first rendered prompt."""
    date: NotRequired[str]
    """The date in every prompt, where the template asks for today's."""


class PromptFacts(TypedDict):
    """The rendered prompt of a split's first example, up to its answer's first character."""

    text: str
    """In redacted results a hash that cannot be compared with another run's."""
    sha256: NotRequired[str]
    """Hash of the text; absent in redacted results."""


class MeasuredFacts(TypedDict):
    """What was measured of one split; two results can be compared where the hashes are the same."""

    examples: int
    answers: Mapping[str, int]
    """Kind (``answer``, ``paraphrased_answer``, ``perturbed_answer``) -> how many."""
    content: NotRequired[str]
    """Hash of prompts and answers."""
    tokens: NotRequired[str]
    """Hash of the tokens that they became."""


class RetentionFacts(TypedDict):
    """What is kept, and how."""

    loss: Literal["nll", "kl", "hidden"]
    """Negative log-likelihood, or the divergence from the model before, both in nats a token; or the mean squared
    distance of hidden rows, which has no unit."""
    split: str
    layer: NotRequired[int]
    """Block whose rows are compared, counted from 0."""
    control: Literal["bounded", "fixed"]
    weight: NotRequired[float]
    """Of what is fixed."""


class MultiplierFacts(TypedDict):
    """Settings and end of the multiplier; ends of further ones stand under ``NAME_final`` and ``NAME_cap_binds``."""

    initial: float
    rate: float
    warmup_epochs: float
    update: Literal["step", "epoch"]
    kind: NotRequired[Literal["ascent", "multiplicative"]]
    normalized: NotRequired[bool]
    proportional: NotRequired[float]
    cap: NotRequired[float | None]
    cap_binds: NotRequired[float]
    """Share of the steps after the warm start in which the cap held it; absent without a cap."""
    final: float
    context_final: NotRequired[float]
    """The last value of the multiplier of what stands around the marked spans."""


class TrainingFacts(TypedDict):
    """What training did."""

    steps: int
    epochs: float
    effective_batch: int
    """Examples of a split in one optimiser step, over all processes."""
    learning_rate: NotRequired[float]
    """As asked for: the largest of the run."""
    num_train_epochs: NotRequired[float]
    """As asked for; `epochs` were taken."""
    max_steps: NotRequired[int]
    """As asked for in place of epochs."""
    seconds: float
    seconds_per_step: float
    resumed_after: NotRequired[list[int]]
    """Steps after which the run was interrupted and went on."""


class AdapterFacts(TypedDict):
    """The LoRA adapter that was trained in place of the weights."""

    lora_r: int
    lora_alpha: int
    lora_target_modules: str
    """Names with commas between them, or ``all-linear``."""
    adapted_layers: int
    trainable_parameters: int
    """Numbers in the adapter."""
    model_parameters: int
    """Numbers in the model without it."""
    merged: bool
    """The saved model is whole, with the adapter in its weights."""


class RecomputedFacts(TypedDict):
    """What a run said of its model on the probe of a split, and what the saved model gives; in nats a token."""

    run: NotRequired[str]
    """Folder of the run; absent from further splits."""
    status: NotRequired[str]
    """The run's."""
    split: str
    probe_size: int
    """Examples in the probe."""
    loss: float
    """Of the saved model, recomputed."""
    claimed_loss: NotRequired[float]
    """What the run measured; absent where it measured a benchmark's rows and held no bound."""
    tolerance: NotRequired[float]
    """Largest difference between the two that rounding explains."""
    agrees: NotRequired[bool]
    loss_before: NotRequired[float]
    """Of the model before unlearning, as the run measured it."""
    kept: NotRequired[float]
    """Share of its probability per token that the saved model keeps: ``exp(loss_before - loss)``."""
    bound: NotRequired[float]
    further: NotRequired[Mapping[str, "RecomputedFacts"]]
    """The same of the other splits that the run kept."""


class Results(TypedDict):
    """The content of results.json; metrics are flat: a key to a number.

    The key is ``split.metric`` (``forget.probability``), or the name of a metric about no single split
    (``model_utility``).

    A run of ``finetune`` has the status "done", metrics of the split ``data``, and neither bound, multiplier nor
    candidates. A run of ``unlearn`` without a bound is "unconstrained", has neither bound nor multiplier, and the last
    step as its one candidate. Of several retentions the first leads: its bound stands under ``bound``, those of others
    under ``NAME_bound``.
    """

    schema: int
    command: Literal["unlearn", "finetune", "eval"]
    status: Literal["feasible", "infeasible", "unconstrained", "done"]
    verdict: str
    """One sentence: whether the bound held, and what was forgotten."""
    model: NotRequired[str]
    """The model that the run started from."""
    retentions: NotRequired[Mapping[str, RetentionFacts]]
    """Name -> what is kept, and how; the leading one first."""
    bound: NotRequired[BoundFacts]
    context_bound: NotRequired[BoundFacts]
    """The same of what stands around the marked spans, where --keep_context holds it; the probe is all of it."""
    metrics: Mapping[str, float]
    """The model that the run wrote."""
    reference_metrics: NotRequired[Mapping[str, float]]
    """The model before, by the same keys."""
    retrained_metrics: NotRequired[Mapping[str, float]]
    """A model that never saw the forget split, by the same keys."""
    intervals: NotRequired[Mapping[str, Sequence[float]]]
    """95 % bootstrap intervals, over examples, of `metrics`; low and high."""
    metric_notes: NotRequired[Mapping[str, str]]
    """Key of `metrics` -> a sentence that must be read with the value."""
    not_computed: NotRequired[Mapping[str, str]]
    """Key of a metric that has no value -> why, and what would supply what is missing."""
    benchmark: NotRequired[str]
    """The benchmark that data and splits are from, such as ``tofu:forget10``."""
    fold: NotRequired[str]
    """Of the benchmark's forget sets the one that was forgotten, where there are several: ``forget_2``."""
    retrained: NotRequired[str]
    """Of an evaluation: the model that never saw the forget split, or the folder of its evaluation."""
    reference: NotRequired[str]
    """Of an evaluation: the model that answers and likelihoods are compared with."""
    recomputed: NotRequired[RecomputedFacts]
    """Of an evaluation of a run: whether the model that it wrote still is what the run said."""
    work: NotRequired[Mapping[str, int]]
    """Of an evaluation: ``positions_scored``; ``answers_decoded``, the ``positions_read_in`` for them, and the
    ``decode_row_steps`` for ``tokens_decoded``. What a cache knew is not among them."""
    measured_on: NotRequired[Mapping[str, MeasuredFacts]]
    method: NotRequired[Mapping[str, Any]]
    """``name`` and hyper-parameters."""
    multiplier: NotRequired[MultiplierFacts]
    candidates: NotRequired[list[CandidateFacts]]
    kept_step: NotRequired[int]
    """The candidate whose weights were written."""
    probe_ids: NotRequired[list[str]]
    """Ids of the probe's examples; of several probes, one behind the other."""
    reload_difference: NotRequired[float]
    """Largest difference of an example's loss between the live and the saved model, in nats a token."""
    merge_difference: NotRequired[float]
    """How far the logits of the saved model are from those of base model and adapter before they were merged: the root
    mean square of the differences as a share of that of the logits."""
    adapter: NotRequired[AdapterFacts]
    data: Mapping[str, SplitFacts]
    template: NotRequired[TemplateFacts]
    prompts: NotRequired[Mapping[str, PromptFacts]]
    """Split -> how its first example is asked; results are comparable where these are equal."""
    training: TrainingFacts
    seeds: Mapping[str, int]
    timings: Mapping[str, float]
    """Stage to seconds."""
    peak_memory_bytes: NotRequired[int | None]
    uploaded_to: NotRequired[str]
    """Address of the model on the Hub."""
    notes: list[str]
    """Sentences that the user should read."""
    redacted: NotRequired[bool]
    """True where hashes stand in the place of texts."""


class Comparison(NamedTuple):
    """One metric of one split, side by side; a model that was not measured has None."""

    split: str
    """Empty where the number is about no single split."""
    metric: str
    label: str
    direction: str
    """What a change means, such as "lower means more forgotten"."""
    is_share: bool
    """The metric lies between 0 and 1."""
    before: float | None
    retrained: float | None
    after: float | None

    @property
    def key(self) -> str:
        """Return the key of results.json: ``split.metric``, or the metric alone."""
        return f"{self.split}.{self.metric}" if self.split else self.metric


def comparison(results: Mapping[str, Any]) -> list[Comparison]:
    """Return the metrics of a run side by side: the model as a whole, then the forget split; unknown ones last."""
    before, retrained, after = (
        results.get(name) or {} for name in ("reference_metrics", "retrained_metrics", "metrics")
    )
    keys = {key: describe(key) for key in {*before, *retrained, *after}}
    return [
        Comparison(*known[:-1], before.get(key), retrained.get(key), after.get(key))
        for key, known in sorted(keys.items(), key=lambda pair: pair[1].place)
    ]


def bounds_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of each bound of a run by the name of what is held, the leading one first; none without any."""
    names = list(results.get("retentions") or ("retain", "context"))
    keys = {name: f"{name}_bound" if number else "bound" for number, name in enumerate(names)}
    return {name: results[key] for name, key in keys.items() if results.get(key)}


def read_results(run_dir: str | Path) -> dict[str, Any]:
    """Return results.json of a run folder; raises InputError where it is missing or of another schema."""
    path = Path(run_dir) / "results.json"
    if not path.is_file():
        raise InputError(f"{run_dir} holds no results.json; expected the folder of a run that ended.")
    results = read_json(path)
    if results.get("schema") != SCHEMA:
        found = results.get("schema")
        raise InputError(f"{path} has schema {found!r}; this version of amnestic reads schema {SCHEMA}.")
    return results
