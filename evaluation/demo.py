"""`make demo`: both embedded models before and after refinement at one step, judged, on one sheet each."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.backbones.registry import backbone_for
from core.config import IterRef, Refinement, SamplerConfig
from core.generation import load_pipeline
from core.prompts import Prompt
from core.sampling import Sampler
from evaluation.contact_sheet import Cell, SheetRow, contact_sheet
from evaluation.detector import Detector
from evaluation.detectors import SHAPES_DETECTOR, load_detector
from evaluation.prompt_sets import standard_set
from evaluation.tiam import TiamSettings, score_detections

SETS = ("shapes_two", "shapes_two_colored", "shapes_three", "shapes_three_colored")
SHOWN = 3  # rows of the sheet from each set
SAMPLERS = {
    "shapes-sd": SamplerConfig(
        scheduler="DDPMScheduler", num_inference_steps=12, guidance_scale=1.5, height=64, width=64
    ),
    "shapes-sd3": SamplerConfig(
        scheduler="FlowMatchEulerDiscreteScheduler",
        num_inference_steps=12,
        guidance_scale=2.5,
        height=64,
        width=64,
        max_sequence_length=24,
    ),
}
REFINED = {"shapes-sd": IterRef(step_index=5, iterations=10), "shapes-sd3": IterRef(step_index=5, iterations=10)}


def draw_and_judge(
    sampler: Sampler, prompts: Sequence[Prompt], refinement: Refinement | None, detector: Detector
) -> list[Cell]:
    """One picture a prompt, seed 0, with what the detector found in it."""
    settings = TiamSettings(confidences=(0.25,))
    length = sampler.config.max_sequence_length
    conditioning = sampler.backbone.encode(prompts, max_sequence_length=length)
    done = sampler.advance(sampler.start([0] * len(prompts)), conditioning, refinement=refinement)
    images = sampler.decode(done.point)
    return [
        Cell(image, score_detections(found, prompt, settings), found.instances())
        for image, prompt, found in zip(images, prompts, detector.detections(images), strict=True)
    ]


def run(model: str, prompts_a_set: int, detector: Detector, folder: Path) -> None:
    """Draws, scores, prints TIAM before and after, and writes the sheet."""
    started = time.perf_counter()
    pipe = load_pipeline(f"keystep/{model}")
    sampler = Sampler(backbone_for(pipe), SAMPLERS[model])
    iterref = REFINED[model]
    rows: list[SheetRow] = []
    totals: list[tuple[float, float]] = []
    print(f"\n{model}: {SAMPLERS[model].num_inference_steps} steps, refined at step index {iterref.step_index}")
    print(f"  {'prompt set':<22}{'before':>8}{'after':>8}   TIAM over {prompts_a_set} prompts, one seed each")
    for name in SETS:
        prompts = standard_set(name, prompts_a_set, seed=0).prompts
        before, after = (
            draw_and_judge(sampler, prompts, refinement, detector) for refinement in (None, Refinement(iterref=iterref))
        )
        totals.append((_tiam(before), _tiam(after)))
        print(f"  {name:<22}{totals[-1][0]:>8.2f}{totals[-1][1]:>8.2f}", flush=True)
        changed = sorted(range(len(prompts)), key=lambda row: _right(before[row]) - _right(after[row]))
        rows += [SheetRow(prompts[row], 0, (before[row], after[row])) for row in changed[:SHOWN]]
    mean_before, mean_after = np.mean(totals, axis=0)
    path = folder / f"{model}.png"
    sheet = contact_sheet(
        rows, ("unrefined", f"refined at step {iterref.step_index}"), title=f"{model}: what changed most"
    )
    sheet.save(path)
    print(f"  {'accumulated (mean)':<22}{mean_before:>8.2f}{mean_after:>8.2f}")
    print(f"  {path} written, {time.perf_counter() - started:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m evaluation.demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder of the sheets (default: %(default)s)"
    )
    parser.add_argument("--prompts", type=int, default=16, help="prompts from each set (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    detector = load_detector(SHAPES_DETECTOR)
    for model in SAMPLERS:
        run(model, options.prompts, detector, options.out)


def _tiam(cells: Sequence[Cell]) -> float:
    return float(np.mean([_right(cell) for cell in cells]))


def _right(cell: Cell) -> bool:
    assert cell.score is not None
    return bool(cell.score.tiam[0])


if __name__ == "__main__":
    main()
