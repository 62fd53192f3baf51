"""Ultralytics' YOLO segmentation models, for parity with published TIAM scores."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from PIL import Image

from keystep.core.devices import usable_device
from keystep.evaluation.detections import Instance
from keystep.evaluation.detector import DEFAULT_MIN_SCORE, Detector, check_min_score
from keystep.evaluation.labels import canonical_label
from keystep.evaluation.masks import mask_box
from keystep.evaluation.pretrained import fingerprint_of
from keystep.evaluation.rgb import as_rgb


class YoloSegmenter(Detector):
    """A YOLO segmentation model run by ultralytics, which keystep neither contains nor installs by default.

    Args:
        model: weights file or ultralytics name; `yolov8x-seg.pt` is what published TIAM scores used. Such
            files are pickles that ultralytics unpickles: load none that you do not trust.
        revision: must be None; ultralytics has no revisions.
        min_score: instances below it are not reported.
        device: where to run; by default CUDA where there is one.
        batch_size: images a forward pass.

    Raises:
        ValueError: if ultralytics is not installed (the message names its licence), or the model does not
            segment.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        min_score: float = DEFAULT_MIN_SCORE,
        device: str | None = None,
        batch_size: int = 16,
    ) -> None:
        if revision is not None:
            raise ValueError(f"ultralytics models have no revisions, got {revision!r}; name a file instead")
        try:
            from ultralytics import YOLO  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                f"{model!r} needs ultralytics, which is under AGPL-3.0 (or a paid licence): if that suits "
                "your use, pip install 'keystep[ultralytics]'"
            ) from error
        self._model = YOLO(model)
        if self._model.task != "segment":
            raise ValueError(f"{model!r} does a {self._model.task} task; a segmentation model (-seg) is needed")
        self._device = usable_device(device)
        self._batch_size = batch_size
        self._names = {index: canonical_label(name) for index, name in self._model.names.items()}
        self.min_score = check_min_score(min_score)
        self.name = f"yolo:{model}"
        self.labels = frozenset(self._names.values())
        processing = {"names": self._names, "min_score": min_score, "ultralytics": version("ultralytics")}
        self.fingerprint = fingerprint_of("yolo-1", self._model.model, processing)

    def detect(self, images: Sequence[Image.Image]) -> list[list[Instance]]:
        """See `Detector.detect`. Ultralytics' own suppression keeps one class an instance."""
        found = []
        for start in range(0, len(images), self._batch_size):
            batch = [as_rgb(image) for image in images[start : start + self._batch_size]]
            results = self._model.predict(
                batch, conf=self.min_score, retina_masks=True, device=self._device, verbose=False
            )
            found += [self._instances(result) for result in results]
        return found

    def _instances(self, result) -> list[Instance]:
        if result.masks is None:
            return []
        masks = result.masks.data.cpu().numpy().astype(np.bool_)
        rows = zip(masks, result.boxes.cls.tolist(), result.boxes.conf.tolist(), strict=True)
        instances = [
            Instance(self._names[int(label)], float(score), mask_box(mask), mask)
            for mask, label, score in rows
            if mask.any()
        ]
        return sorted(instances, key=lambda instance: -instance.score)
