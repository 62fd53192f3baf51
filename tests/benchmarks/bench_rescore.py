"""Re-score cached detections at another threshold: time and peak memory for 1,000 and for 10,000 images.

    python -m tests.benchmarks.bench_rescore [--images 10000] [--size 512] [--save]

Detections are random ellipses, five an image, written through the cache as a detector's are. Each count is
re-scored in a fresh process, once timed and once with memory traced (all of Python's and numpy's), with a
superposition rule and a palette that were not used before, over the whole confidence grid, images found by key: no
picture is opened and no detector is run. The cache's index is one short entry an image; all else is flat.
"""

import argparse
import datetime
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import tracemalloc

import numpy as np
from PIL import Image

from keystep.core.prompts import Entity, Prompt
from keystep.evaluation.detection_cache import DetectionCache
from keystep.evaluation.detections import Instance, measure
from keystep.evaluation.masks import mask_box
from keystep.evaluation.tiam import TiamSettings, score_detections
from tests.benchmarks.report_files import REPORTS, report_path, this_cpu

NOUNS = ["cat", "dog", "bird", "bench", "car"]
COLORS = ["red", "green", "blue", "purple"]


def key_of(number: int) -> str:
    return f"{number:032x}"


def fill(folder: str, count: int, size: int) -> None:
    """Write detections of `count` images of size x size px; 50 distinct ones, over and over."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    cache = DetectionCache(folder, "bench")
    distinct = []
    for _ in range(50):
        pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((size // 8, size // 8, 1))).astype(np.uint8)
        instances = []
        for noun in rng.choice(NOUNS, 5):
            (cx, cy), (rx, ry) = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0.1, 0.3, 2) * size
            mask = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
            instances.append(Instance(str(noun), float(rng.uniform(0.1, 1)), mask_box(mask), mask))
        distinct.append(measure(Image.fromarray(pixels), instances, min_score=0.1))
    for number in range(count):
        cache.put(key_of(number), distinct[number % len(distinct)])


def rescore(folder: str, count: int) -> float:
    """Score images 0..count-1 from the cache; their mean TIAM."""
    settings = TiamSettings(superposed="keep_best", palette="extended")
    cache = DetectionCache(folder, "bench")
    shown = 0
    for number in range(count):
        first, second = NOUNS[number % 5], NOUNS[(number + 1) % 5]
        entities = (Entity(first, COLORS[number % 4]), Entity(second, COLORS[(number + 1) % 4]))
        detections = cache.get(key_of(number))
        assert detections is not None
        shown += bool(score_detections(detections, Prompt("a prompt", entities), settings).tiam[0])
    return shown / count


def worker(folder: str, count: int, answer: "multiprocessing.Queue[tuple[float, float, float, float]]") -> None:
    """Measure in a process of its own.

    Answers seconds of the clock and of the CPU, and the peak of traced memory in MiB, with the cache's index and
    without.
    """
    start, busy = time.perf_counter(), time.process_time()
    rescore(folder, count)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    tracemalloc.start()
    cache = DetectionCache(folder, "bench")
    index, _ = tracemalloc.get_traced_memory()
    del cache
    tracemalloc.reset_peak()
    rescore(folder, count)
    _, peak = tracemalloc.get_traced_memory()
    answer.put((seconds, busy, peak / 2**20, (peak - index) / 2**20))


def measured(count: int, size: int) -> str:
    """A row of the table."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        fill(folder, count, size)
        answer = context.Queue()
        process = context.Process(target=worker, args=(folder, count, answer))
        process.start()
        seconds, busy, peak, without_index = answer.get()
        process.join()
    return f"| {count:,} | {seconds:.2f} | {busy:.2f} | {1e3 * busy / count:.3f} | {peak:.2f} | {without_index:.2f} |"


def main() -> None:
    """Print the table, and save it if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--save", action="store_true", help=f"write the report to {REPORTS.name}/ too")
    arguments = parser.parse_args()
    lines = [
        f"# Re-scoring cached detections, {this_cpu()}, {datetime.date.today()}",
        "",
        f"`{' '.join(['python -m tests.benchmarks.bench_rescore', *sys.argv[1:]])}`; python "
        f"{platform.python_version()}, numpy {np.__version__}, {sys.platform}, load {os.getloadavg()[0]:.0f} when it "
        f"began. Images of {arguments.size} px with 5 instances each, one process; aim: 10,000 in less than 10 s, "
        "memory flat. Peak memory: what Python and numpy allocate (tracemalloc), with the cache's index and without.",
        "",
        "| images | seconds of the clock | of the CPU | ms of the CPU an image | peak, MiB | without the index, MiB |",
        "|---:|---:|---:|---:|---:|---:|",
        *(measured(count, arguments.size) for count in (arguments.images // 10, arguments.images)),
    ]
    text = "\n".join(lines)
    print(text)
    if arguments.save:
        report_path("rescoring", this_cpu()).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
