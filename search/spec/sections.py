"""The sections of a search's spec beside its space: model, prompts, detector, search, resources, storage, tracking."""

import inspect
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from keystep.core.frozen import FromList, FrozenModel, did_you_mean
from keystep.evaluation.colors import palette_named
from keystep.evaluation.detector_names import DEFAULT_DETECTOR
from keystep.evaluation.tiam import Superposed, TiamSettings

MAX_IMAGES = 1_000_000
"""Of one part of a search: one object each is held in memory."""
MAX_TRIALS = 10_000
MAX_WORKERS = 10_000
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], FromList]
OWN_PRUNERS = ("paired", "none")


class ModelSpec(FrozenModel):
    """The model whose step is sought.

    Args:
        id: a hub id, a folder, or an embedded model (keystep/shapes-sd, keystep/shapes-sd3).
        revision: branch, tag or commit of a hub model; null is the newest.
        variant: of its weight files: fp16 for *.fp16.safetensors; null is the files without one.
        dtype: of the weights: float32, float16 or bfloat16.
        device: where it runs; null is CUDA where there is one, else the CPU.
    """

    id: Text
    revision: Text | None = None
    variant: Text | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    device: Text | None = None


class PromptsSpec(FrozenModel):
    """The prompts on which settings are compared, and those on which the winner is confirmed.

    Args:
        sets: standard sets by name (`keystep prompts` lists them), or files: templates (.yaml), .csv, .jsonl.
        validation: prompts of each set that trials are compared on.
        held_out: other prompts of each set, with other nouns together, for the winner and the baseline alone.
        seeds: of the images of every validation prompt.
        held_out_seeds: of the images of every held-out prompt.
        sample_seed: draws and splits the prompts.
    """

    sets: Annotated[tuple[Text, ...], FromList] = Field(min_length=1, max_length=1000)
    validation: int = Field(ge=1, le=MAX_IMAGES)
    held_out: int = Field(ge=1, le=MAX_IMAGES)
    seeds: Seeds = Field(min_length=1, max_length=1000)
    held_out_seeds: Seeds = Field(min_length=1, max_length=1000)
    sample_seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("sets", "seeds", "held_out_seeds")
    @classmethod
    def _all_different(cls, values: tuple) -> tuple:
        twice = [value for place, value in enumerate(values) if value in values[:place]]
        if twice:
            raise ValueError(f"lists {twice[0]!r} twice")
        return values

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        for prompts, seeds in (("validation", "seeds"), ("held_out", "held_out_seeds")):
            images = len(self.sets) * getattr(self, prompts) * len(getattr(self, seeds))
            if images > MAX_IMAGES:
                raise ValueError(
                    f"{len(self.sets)} sets of {getattr(self, prompts):,} {prompts} prompts with "
                    f"{len(getattr(self, seeds))} {seeds} are {images:,} images; at most {MAX_IMAGES:,} can be searched"
                )
        return self


class DetectorSpec(FrozenModel):
    """What decides whether an image shows its prompt. Scores of different detectors do not compare.

    Args:
        id: MODEL or KIND:MODEL as `keystep score` takes it.
        revision: branch, tag or commit of a hub model; null is the newest.
        min_score: instances below it are not kept at all.
        confidence: an instance counts from this score on; TIAM is published at 0.25.
        palette: reference colours, tiam or extended.
        color_share: share of an instance's pixels that must have the colour asked for.
        superposed: two labels on the same pixels: none (both count), drop_both or keep_best.
        superposed_iou: overlap from which that applies.
    """

    id: Text = DEFAULT_DETECTOR
    revision: Text | None = None
    min_score: float = Field(default=0.1, gt=0, lt=1)
    confidence: float = Field(default=0.25, gt=0, le=1)
    palette: Text = "tiam"
    color_share: float = Field(default=0.4, gt=0, le=1)
    superposed: Superposed = "none"
    superposed_iou: float = Field(default=0.95, ge=0.5, le=1)

    @field_validator("palette")
    @classmethod
    def _known_palette(cls, name: str) -> str:
        palette_named(name)
        return name

    @model_validator(mode="after")
    def _can_be_scored(self) -> Self:
        if self.confidence < self.min_score:
            raise ValueError(
                f"confidence is {self.confidence}, but instances below min_score, {self.min_score}, are not kept: "
                "lower min_score"
            )
        return self

    @property
    def settings(self) -> TiamSettings:
        """How `keystep.evaluation.tiam` scores: at the one confidence."""
        return TiamSettings(
            confidences=(self.confidence,),
            superposed=self.superposed,
            superposed_iou=self.superposed_iou,
            palette=self.palette,
            color_share=self.color_share,
        )


class MetricsSpec(FrozenModel):
    """More measures of the held-out images of baseline, winner and runner-up. They decide nothing.

    Args:
        clip: a CLIP of open_clip for the likeness of images and prompts: MODEL:WEIGHTS (ViT-L-14:openai),
            hf-hub:ORG/NAME, a folder, or keystep/shapes-clip; null measures none.
        aesthetics: the file of LAION's aesthetic head for that CLIP (.pth, .safetensors, .npz); null measures none.
    """

    clip: Text | None = None
    aesthetics: Text | None = None

    @model_validator(mode="after")
    def _one_sees_for_the_other(self) -> Self:
        if self.aesthetics is not None and self.clip is None:
            raise ValueError("aesthetics reads what a CLIP sees: set clip too, to the one that the predictor is for")
        return self


class SearchSettings(FrozenModel):
    """How the space is searched.

    Args:
        trials: settings tried, at most; grid tries all of a smaller space.
        sampler: tpe, random, or grid (every setting in order: the exhaustive protocol).
        pruner: paired (stops what is worse than the best so far, at level alpha), none, or any pruner class of
            Optuna by name, such as MedianPruner.
        pruner_options: arguments of an Optuna pruner.
        alpha: chance at most that the paired pruner stops a setting that is not worse, however often it looks.
        min_prompts: prompts seen before a trial can be stopped.
        block_prompts: prompts of each set in a block, after which a trial can be stopped.
        lookahead: settings under way at once, at most, each on as many workers as find work in it; another number is
            another search, more workers are not.
        seed: of the sampler and of the order of the prompts.
    """

    trials: int = Field(default=100, ge=1, le=MAX_TRIALS)
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Text = "paired"
    pruner_options: dict[str, JsonValue] = Field(default_factory=dict)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    min_prompts: int = Field(default=16, ge=1, le=MAX_IMAGES)
    block_prompts: int = Field(default=4, ge=1, le=MAX_IMAGES)
    lookahead: int = Field(default=4, ge=1, le=MAX_WORKERS)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("pruner")
    @classmethod
    def _known_pruner(cls, name: str) -> str:
        choices = [*OWN_PRUNERS, *_optuna_pruners()] if name not in OWN_PRUNERS else OWN_PRUNERS
        if name not in choices:
            raise ValueError(
                f"no pruner is called {name!r}{did_you_mean(name, list(choices))} (they are {', '.join(choices)})"
            )
        return name

    @field_validator("pruner_options")
    @classmethod
    def _known_options(cls, options: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
        pruner = info.data.get("pruner")
        if options and pruner is not None:
            allowed = [] if pruner in OWN_PRUNERS else list(inspect.signature(_optuna_pruners()[pruner]).parameters)
            for name in options:
                if name not in allowed:
                    raise ValueError(
                        f"{pruner} takes no {name!r}{did_you_mean(name, allowed)} "
                        f"(it takes {', '.join(allowed) or 'none'})"
                    )
        return options


def _optuna_pruners() -> dict[str, type]:
    import optuna

    names = sorted(set(optuna.pruners.__all__) - {"BasePruner", "NopPruner"})
    return {name: getattr(optuna.pruners, name) for name in names}


class ResourcesSpec(FrozenModel):
    """What a worker gets, and how much the search may use in all. Changes how long it takes, not what it finds.

    Args:
        cpus: of one worker.
        gpus: of one worker; 0.5 puts two workers on a GPU.
        workers: how many at most; null is as many as fit, also on nodes that come later.
        batch_size: images at a time.
        max_hours: no further trial starts after this time; null is no limit.
        max_gpu_hours: the same, by GPU hours (hours times gpus of every worker).
        max_failures: how often a batch is tried again after its worker died.
    """

    cpus: float = Field(default=1.0, gt=0, le=10_000)
    gpus: float = Field(default=0.0, ge=0, le=1000)
    workers: int | None = Field(default=None, ge=1, le=MAX_WORKERS)
    batch_size: int = Field(default=8, ge=1, le=10_000)
    max_hours: float | None = Field(default=None, gt=0, le=1e6)
    max_gpu_hours: float | None = Field(default=None, gt=0, le=1e9)
    max_failures: int = Field(default=3, ge=0, le=1000)

    @field_validator("gpus")
    @classmethod
    def _whole_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be a fraction of one GPU or a whole number, got {gpus}")
        return gpus


class StorageSpec(FrozenModel):
    """Where outcomes, latents and results are kept. What is known there is not computed again.

    Args:
        path: a folder, on a cluster one that all nodes see, or s3://bucket/prefix. For S3 of another maker set
            AWS_ENDPOINT_URL on every node, or add ?endpoint_override=HOST:PORT&scheme=http&region=us-east-1.
        latents_gb: disk for latents that trials share, gigabytes; the oldest go first.
        latents_path: a folder for them; null is under path if that is a folder, else the node's own cache.
    """

    path: Text = "./keystep-runs"
    latents_gb: float = Field(default=20.0, gt=0, le=1e9)
    latents_path: Text | None = None


class TrackingSpec(FrozenModel):
    """The MLflow server or file that the search is logged to.

    Args:
        uri: of MLflow, such as http://host:5000, postgresql://... or sqlite:///mlflow.db; null is what
            MLFLOW_TRACKING_URI names, and sqlite:///mlflow.db where it is not set.
        experiment: its name; null is made of the model and the prompt sets.
        artifact_location: where a new experiment keeps its files; null is the server's own choice.
        enabled: false logs nothing; a uri of null still does.
    """

    uri: Text | None = None
    experiment: Text | None = None
    artifact_location: Text | None = None
    enabled: bool = True
