"""Text embeddings of the prompts in use: every prompt is encoded once, as long as there is room."""

from collections import OrderedDict
from collections.abc import Sequence

from keystep.core.backbones.base import Backbone
from keystep.core.backbones.conditioning import Conditioning
from keystep.core.prompts import Prompt

MAX_BYTES = 512 * 2**20


class Encodings:
    """Conditionings by prompt, the least recently used of which go first.

    Args:
        backbone: what encodes.
        max_sequence_length: of T5; None is the pipeline's default.
        max_bytes: of embeddings kept, on the model's device.
    """

    def __init__(self, backbone: Backbone, max_sequence_length: int | None = None, max_bytes: int = MAX_BYTES):
        self._backbone = backbone
        self._length = max_sequence_length
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Prompt, Conditioning] = OrderedDict()
        self._bytes = 0

    def __call__(self, prompts: Sequence[Prompt]) -> Conditioning:
        """The conditioning of a batch of prompts, one a row.

        Raises:
            ValueError: an entity that is not in its prompt, or is cut off.
        """
        rows = {prompt: self._kept[prompt] for prompt in prompts if prompt in self._kept}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        if missing:
            encoded = self._backbone.encode(missing, max_sequence_length=self._length)
            rows |= {prompt: encoded.select([row]) for row, prompt in enumerate(missing)}
        for prompt, row in rows.items():
            self._keep(prompt, row)
        return Conditioning.cat([rows[prompt] for prompt in prompts])

    def _keep(self, prompt: Prompt, row: Conditioning) -> None:
        if prompt not in self._kept:
            self._bytes += _size(row)
        self._kept[prompt] = row
        self._kept.move_to_end(prompt)
        while self._bytes > self._max_bytes and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(row: Conditioning) -> int:
    tensors = [row.prompt_embeds, row.negative_prompt_embeds, *row.added.values(), *row.negative_added.values()]
    return sum(tensor.nbytes for tensor in tensors)
