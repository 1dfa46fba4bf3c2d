"""Trains a language model on sequences of proteins, or on any text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foldase_models.errors import ModelError
from foldase_models.language.decoder.config import VOCABULARY, DecoderConfig
from foldase_models.planning import Part
from foldase_models.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Resources,
    StepContext,
)
from foldase_workflows.contracts.ports import Families, File, Json, Weights
from foldase_workflows.operators._folding_plan import read_config
from foldase_workflows.operators._models import model_errors, use_cores
from foldase_workflows.operators._training_plan import estimate_training_step, plan_step
from foldase_workflows.operators._training_ports import (
    CAME_LATER,
    WHERE_THINGS_LIE,
    TrainingPorts,
    training_config,
)
from foldase_workflows.operators._training_run import disk_of, gang_arguments, recipe_errors

if TYPE_CHECKING:
    from foldase_models.recipes.language import LanguageRecipe

INNER_UNIT = 8
"""Channels inside of a transition are a multiple of this."""
FEWEST_POSITIONS = 1024
_SIZES = {"hidden_size": "width", "num_attention_heads": "heads", "num_key_value_heads": "key_value_heads"}
"""Inputs by the field of a configuration that each gives."""


class _LanguageInputs(Ports):
    """Sequences, sizes of the model, and the training."""

    sequences: Annotated[
        File | None,
        Field(description="FASTA, or with tokens: bytes a text whose paragraphs are the sequences"),
    ] = None
    families: Annotated[
        Families | None, Field(description="The rows of alignments as sequences; this or sequences, or both")
    ] = None
    weights: Annotated[
        Weights | None,
        Field(description="Start from this model; its sizes and tokens count, not those below"),
    ] = None
    tokens: Annotated[
        Literal["amino_acids", "bytes"], Field(description="What a token is: a residue, or a byte of text")
    ] = "amino_acids"
    steps: Annotated[int, Field(ge=1, le=10_000_000, description="Optimizer steps")] = 500
    seed: Annotated[int, Field(ge=0, le=2**31, description="Of weights and the order of sequences")] = 0
    width: Annotated[int, Field(ge=8, le=16384, description="Channels of a token")] = 128
    layers: Annotated[int, Field(ge=1, le=256, description="Blocks")] = 4
    heads: Annotated[int, Field(ge=1, le=256, description="Attention heads")] = 4
    key_value_heads: Annotated[
        int | None, Field(ge=1, le=256, description="Of keys and values, shared by the others; else as many")
    ] = None
    inner_width: Annotated[
        int | None, Field(ge=8, le=65536, description="Channels inside of a transition; else 8/3 of width")
    ] = None
    tied: Annotated[bool, Field(description="One matrix for embedding and head")] = True
    block: Annotated[
        int, Field(ge=2, le=65536, description="Tokens of an example; sequences are packed into blocks")
    ] = 128
    blocks_per_step: Annotated[int, Field(ge=1, le=65536, description="Examples of a step")] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1, description="Peak of the schedule")] = 2e-3
    average_decay: Annotated[
        float,
        Field(ge=0, lt=1, description="Of the average of the weights, which is the result; 0 for none"),
    ] = 0.99
    validation: Annotated[
        int, Field(ge=0, le=100_000, description="Sequences held back, the last ones, at most a fifth")
    ] = 64
    validate_every: Annotated[int, Field(ge=1, description="Steps between looks at them")] = 100


class TrainInputs(TrainingPorts, _LanguageInputs):
    """Those, and what all trainings share."""


class TrainOutputs(Ports):
    """The model, and how it does on the sequences held back."""

    model: Annotated[
        Weights, Field(description="A Llama checkpoint: config.json, safetensors, record of the training")
    ]
    scores: Annotated[
        Json, Field(description="Loss in nats, perplexity and accuracy a token on sequences held back")
    ]


class TrainLanguage(Operator[TrainInputs, TrainOutputs]):
    """A plain causal decoder, trained by one or several ranks.

    How many ranks there are, and what lies where meanwhile, change nothing but rounding: ``resources`` are
    no part of a result's identity at all, and the inputs in ``tolerances`` are part of it, but not of the
    checkpoints', so that a training goes on from them with other places and on other numbers of ranks. So it
    is with an ``optimizer`` that compresses what it sends, although there the number of ranks changes more
    than rounding: as much as another ``seed`` would.
    """

    name = "language.train"
    version = 1
    help = "Train a language model on protein sequences or text"
    family = "torch"
    resources = Resources(cpu=2.0, memory_bytes=2 * 2**30)
    gang = True
    tolerances = WHERE_THINGS_LIE
    added = CAME_LATER
    Inputs = TrainInputs
    Outputs = TrainOutputs

    def run(self, inputs: TrainInputs, context: StepContext) -> TrainOutputs:
        """Train, going on from a checkpoint of an earlier attempt where there is one.

        Raises:
            BadInput: no sequences, letters that are no residues, weights of another model, sizes that
                contradict each other, a training that does not fit or that diverged.
        """
        use_cores(context)
        if inputs.sequences is None and inputs.families is None:
            raise BadInput(
                "there are no sequences to learn from",
                code="no_sequences",
                location=Location(path="with.sequences"),
                hint="give a FASTA file as sequences, or families",
            )
        with recipe_errors(TrainInputs):
            config, recipe = config_of(inputs), recipe_of(inputs, disk_of(inputs, context))
        plan_step(config, recipe.training, _part(inputs), context, ranks=context.ranks)
        tree = context.new_tree("model")
        shown = None if inputs.sequences is None else context.artifact("sequences").name
        scores = context.gang(
            "foldase_workflows.operators._language_ranks:train",
            gang_arguments(inputs, model=tree) | {"name": shown},
        )
        context.progress(1.0, "trained")
        return TrainOutputs(model=tree, scores=scores)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the sizes; of a model that is still to be read, only what is wrong with its training.

        Raises:
            BadInput: sizes or numbers that contradict each other.
        """
        given = {name: value for name, value in known.items() if name not in ("sequences", "families")}
        try:
            inputs = TrainInputs.model_construct(**given)
            with recipe_errors(TrainInputs):
                new = "weights" in known and known["weights"] is None
                config = _new_config(inputs) if new else None
                part, training = _part(inputs), _training(inputs)
        except TypeError:
            return None
        return estimate_training_step(
            config, inputs, training, part, hardware, cpus=self.resources.cpu, examples="blocks_per_step"
        )


def config_of(inputs: TrainInputs) -> DecoderConfig:
    """Of the model that is trained: of these sizes, or as the weights have it.

    Raises:
        ModelError: sizes that contradict each other.
        BadInput: weights without a configuration, of another model, or with a tokeniser of their own.
    """
    if inputs.weights is None:
        return _new_config(inputs)
    with model_errors("weights"):
        config = DecoderConfig.from_json(read_config(inputs.weights))
    if config.tokens == "foreign":
        raise BadInput(
            "the model has a tokeniser of its own, which is not known here",
            code="wrong_model",
            location=Location(path="with.weights"),
            hint="give one that language.train made",
        )
    return config


def _new_config(inputs: TrainInputs) -> DecoderConfig:
    inner = inputs.inner_width or -(-8 * inputs.width // (3 * INNER_UNIT)) * INNER_UNIT
    try:
        return DecoderConfig(
            vocab_size=VOCABULARY[inputs.tokens],
            hidden_size=inputs.width,
            intermediate_size=inner,
            num_hidden_layers=inputs.layers,
            num_attention_heads=inputs.heads,
            num_key_value_heads=inputs.key_value_heads or inputs.heads,
            max_position_embeddings=max(inputs.block, FEWEST_POSITIONS),
            tie_word_embeddings=inputs.tied,
            tokens=inputs.tokens,
        )
    except ModelError as error:
        raise _in_words_of_sizes(error) from error


def _in_words_of_sizes(error: ModelError) -> ModelError:
    """An error of the configuration of a new model, naming the inputs that its sizes come from."""
    message, location = error.message, error.location
    for field, name in _SIZES.items():
        message = message.replace(field, name)
        location = name if location == field else location
    hint = {
        "width": "make width a multiple of twice the heads",
        "heads": "make heads a multiple of key_value_heads",
    }.get(location or "")
    return ModelError(message, code=error.code, location=location, hint=hint)


def _training(inputs: TrainInputs) -> TrainingConfig:
    """What the shared inputs change where they are given."""
    return TrainingConfig(
        steps=inputs.steps,
        seed=inputs.seed,
        optimizer=OptimizerConfig(learning_rate=inputs.learning_rate, betas=(0.9, 0.95)),
        schedule=ScheduleConfig(warmup_steps=max(1, min(1000, inputs.steps // 10))),
        average_decay=inputs.average_decay,
    )


def _part(inputs: TrainInputs) -> Part:
    """What a rank works on at a time."""
    return Part(examples=max(1, inputs.blocks_per_step // inputs.micro_batches), length=inputs.block)


def recipe_of(inputs: TrainInputs, disk: Path | None) -> LanguageRecipe:
    """How the model is trained; ``disk`` is what ``nvme`` means, None for what the worker says.

    Raises:
        ModelError: numbers that contradict each other.
        BadInput: the same, of the shared inputs; ``no_scratch``.
    """
    from foldase_models.recipes.language import LanguageRecipe

    return LanguageRecipe(
        training=training_config(inputs, _training(inputs), folder=disk),
        block=inputs.block,
        blocks_per_step=inputs.blocks_per_step,
        validation=inputs.validation,
        validate_every=inputs.validate_every,
    )


OPERATOR = TrainLanguage()
