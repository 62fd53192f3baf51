"""Small random models of the real architectures, saved as their own libraries save them: a CLIP and a BLIP."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
BLIP_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "cat", "dog", "grass"]


def save_clip(folder: Path) -> None:
    """An open_clip model with its configuration, as a `local-dir:` has it."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**CLIP).state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


def save_blip(folder: Path) -> None:
    """A BLIP captioner that knows a handful of words."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    (folder / "vocab.txt").write_text("\n".join(BLIP_WORDS))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    text = {"vocab_size": len(BLIP_WORDS), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "encoder_hidden_size": 16, "bos_token_id": 2, "sep_token_id": 3}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
