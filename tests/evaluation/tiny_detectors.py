"""Small randomly initialised detectors of the real architectures, saved as a hub checkpoint is."""

import json
from pathlib import Path

import torch
from transformers import (
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    OneFormerImageProcessor,
    OneFormerProcessor,
    RfDetrConfig,
    RfDetrForInstanceSegmentation,
    RfDetrImageProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
)

LABELS = ["cat", "dog", "tvmonitor", "sofa"]


def _names(labels: list[str]) -> dict[str, dict]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _swin() -> SwinConfig:
    return SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[2, 2, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def save_rf_detr(folder: Path, *, labels: list[str] | None = None, num_labels: int | None = None) -> Path:
    torch.manual_seed(0)
    names = {"num_labels": num_labels} if num_labels else _names(labels or LABELS)
    config = RfDetrConfig(
        backbone_config={
            "model_type": "rf_detr_dinov2",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "num_windows": 2,
            "out_features": ["stage1", "stage2"],
        },
        d_model=32,
        decoder_layers=1,
        decoder_ffn_dim=32,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        decoder_n_points=2,
        num_queries=10,
        group_detr=1,
        intermediate_size=32,
        **names,
    )
    model = RfDetrForInstanceSegmentation(config)
    model.save_pretrained(folder)
    RfDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_mask2former(folder: Path) -> Path:
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=32,
        num_attention_heads=2,
        num_queries=10,
        **_names(LABELS),
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def save_oneformer(folder: Path) -> Path:
    torch.manual_seed(0)
    config = OneFormerConfig(
        backbone_config=_swin(),
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        dim_feedforward=32,
        mask_dim=32,
        conv_dim=32,
        num_attention_heads=2,
        num_queries=10,
        text_encoder_width=16,
        text_encoder_num_layers=1,
        text_encoder_vocab_size=600,
        text_encoder_context_length=77,
        text_encoder_n_ctx=4,
        text_encoder_proj_layers=1,
        task_seq_len=77,
        **_names(LABELS),
    )
    OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    classes = {str(k): {"name": label, "isthing": 1} for k, label in enumerate(LABELS)}
    (folder / "classes.json").write_text(json.dumps(classes))
    images = OneFormerImageProcessor(
        size={"height": 64, "width": 64}, repo_path=str(folder), class_info_file="classes.json", num_text=6
    )
    OneFormerProcessor(images, _tokenizer(), max_seq_length=77, task_seq_length=77).save_pretrained(folder)
    return folder


def _tokenizer() -> CLIPTokenizer:
    """CLIP's class over single characters: the task token only has to be read, not understood."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *[f"{letter}</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: k for k, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def save_segformer(folder: Path, labels: list[str], *, processor: bool = True) -> Path:
    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 1],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        **_names(labels),
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    if processor:
        SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
