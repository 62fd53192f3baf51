"""What was measured before a step config was exported: the reason to believe in it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from keystep.core.frozen import FromList, FrozenModel

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Estimate(FrozenModel):
    """A share in [0, 1] with its confidence interval.

    Args:
        value: the share measured.
        low, high: ends of the interval, ``low <= value <= high``.
        level: confidence of the interval, in (0, 1).
    """

    value: Share
    low: Share
    high: Share
    level: float = Field(default=0.95, gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(
                f"an interval must hold its value: low <= value <= high, got {self.low} <= {self.value} <= {self.high}"
            )
        return self


class Measure(FrozenModel):
    """A number of any range with its confidence interval. Fields as `Estimate`'s."""

    value: float
    low: float
    high: float
    level: float = Field(default=0.95, gt=0, lt=1)


class BeforeAfter(FrozenModel):
    """A metric of the images without the refinement and with it, and the name of the model that measured it."""

    before: Measure
    after: Measure
    model: Text


class Evidence(FrozenModel):
    """TIAM with and without the refinement, and all that is needed to measure it again.

    Args:
        tiam_before: TIAM of the unrefined model, mean over the prompt sets; higher is better.
        tiam_after: the same with the refinement, same prompts and seeds.
        p_value: of the paired test that the refinement is no better, prompts as the independent units.
        prompt_sets: name of each prompt set, to the hash of its prompts.
        detector: name of the detector that judged the images; scores of different detectors do not compare.
        seeds: the seeds run for every prompt.
        search_id: the search that chose the setting.
        versions: package name to version, of what made the images and judged them.
        seconds_per_image: wall time of one refined image, seconds.
        seconds_per_image_before: wall time of one unrefined image, seconds.
        metrics: what else was measured of the same images, by name; it decided nothing.
    """

    tiam_before: Estimate
    tiam_after: Estimate
    p_value: Share
    prompt_sets: dict[Text, Text] = Field(min_length=1)
    detector: Text
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], FromList] = Field(min_length=1)
    search_id: Text
    versions: dict[Text, Text]
    seconds_per_image: float = Field(gt=0)
    seconds_per_image_before: float | None = Field(default=None, gt=0)
    metrics: dict[Text, BeforeAfter] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ from one another, got {list(self.seeds)}")
        return self
