"""The likeliest mistakes: each is told in a sentence that says what, where and what to do, without a traceback."""

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from typer.testing import CliRunner

from keystep import Entity, IterRef, LossWeights, Prompt, SamplerConfig, StepConfig, StepRefinement, load_pipeline
from keystep.core.config import Refinement
from keystep.search.cli import build_app
from keystep.search.images.evaluator import Evaluator
from keystep.search.spec.instances import make_parts
from keystep.search.spec.loading import load_spec
from keystep.search.tracking.tracker import Tracker
from tests.search.found_search import stored

TEXT = "a photo of a red circle and a blue star"
CONFIG = StepConfig(
    model="keystep/shapes-sd",
    sampler=SamplerConfig(scheduler="DDPMScheduler", num_inference_steps=4, guidance_scale=1.5, height=64, width=64),
    refinement=Refinement(weights=LossWeights(), iterref=IterRef(step_index=1, iterations=2)),
    timestep=501.0,
)
PROMPTS = "prompt,entity1,entity2,adj1,adj2\n" + f"{TEXT},circle,star,red,blue\n"
IN_SPEC = "built-in spec shapes-sd with --set"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a config and a few files that somebody wrote wrongly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    CONFIG.save("step_config.json")
    Path("prompts.csv").write_text(PROMPTS)
    Path("text.csv").write_text("text,entity1\na photo of a cat,cat\n")
    Path("cats.csv").write_text("prompt,entity1\na photo of a cat,cat\n")
    Path("notes.json").write_text("{not json")
    Path("list.txt").write_text("a photo of a cat\n")
    Path("twice.csv").write_text("prompt,entity1,entity1\na photo of a cat and a dog,cat,dog\n")
    Path("twice.json").write_text('{"model": "a", "model": "b"}')
    Path("gbk.csv").write_bytes("prompt,entity1\n红色的猫,猫\n".encode("gbk"))
    return tmp_path


def changed(name: str, *keys: str, value: Any) -> None:
    """A config file with one value changed, as an editor would."""
    plain = json.loads(Path("step_config.json").read_text())
    del plain["sha256"]  # as the message says that asks for it
    *way, last = keys
    section = plain
    for key in way:
        section = section[key]
    section[last] = value
    Path(name).write_text(json.dumps(plain))


def refused(arguments: Sequence[Any], *said: str) -> str:
    """Run the command; it must end with exit code 2 and say all of this, and nothing of its insides."""
    result = CliRunner().invoke(build_app(), [str(argument) for argument in arguments], env={"COLUMNS": "220"})
    assert result.exit_code == 2, result.output
    assert [text for text in said if text not in result.stderr] == [], result.stderr
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["serach"], ["No such command 'serach'", "Did you mean 'search'?"], id="command"),
        pytest.param(
            ["search", "sd15"],
            ["sd15 is no file and no built-in spec; did you mean 'sd14'?", "shapes-sd, shapes-sd3"],
            id="built-in spec",
        ),
        pytest.param(
            ["search", "--set", "search.trial=3"],
            [f"{IN_SPEC} search.trial=3", "no field 'trial'; did you mean 'trials'?"],
            id="spec key",
        ),
        pytest.param(
            ["search", "--set", "search.trials"], ["--set search.trials: write KEY=VALUE, for instance"], id="no value"
        ),
        pytest.param(
            ["search", "--set", "space.iterations=[-1]"],
            [IN_SPEC, "space.iterations.0", "greater than or equal to 1 (got -1)"],
            id="negative iterations",
        ),
        pytest.param(
            ["search", "--set", "sampler.scheduler=DDPM"],
            ["sampler.scheduler: 'DDPM' is no scheduler of diffusers", "did you mean 'DDPMScheduler'?"],
            id="scheduler",
        ),
        pytest.param(
            ["search", "--set", "prompts.sets=[shapes_tow]"],
            ["prompts.sets", "shapes_tow: no such file", "did you mean 'shapes_two'?"],
            id="prompt set",
        ),
        pytest.param(["search", "--out", "step.yaml"], ["--out is a .json file, got step.yaml"], id="suffix"),
        pytest.param(["prompts", "text.csv"], ["text.csv, line 1: the header needs 'prompt'"], id="column"),
        pytest.param(
            ["prompts", "list.txt"],
            ["list.txt: none of its 1 prompts says which entities", "keystep prompts list.txt --find-entities"],
            id="no entities in a list",
        ),
        pytest.param(
            ["score", ".", "--prompts", "twice.csv"],
            ["twice.csv, line 1: the column 'entity1' stands twice; leave one"],
            id="column twice",
        ),
        pytest.param(
            ["search", "--set", "prompts.sets=[list.txt]"],
            ["keystep: prompts.sets: ", "list.txt: none of its 1 prompts says which entities"],
            id="no entities in a search",
        ),
        pytest.param(
            ["prompts", "gbk.csv"], ["gbk.csv, line 2: byte 0xba is no UTF-8", "save the file"], id="encoding"
        ),
        pytest.param(
            ["generate", TEXT, "--compare", "o.png", "--config", "twice.json"],
            ["twice.json: the key 'model' stands twice in one object"],
            id="key twice",
        ),
        pytest.param(
            ["report", "shapes-sd"], ["no search called 'shapes-sd' in ./keystep-runs", "--storage"], id="report"
        ),
        pytest.param(
            ["export", "shapes-sd"], ["no search called 'shapes-sd' in ./keystep-runs", "--storage"], id="export"
        ),
        pytest.param(["generate", TEXT], ["say where the pictures go: --compare out.png"], id="no output"),
        pytest.param(
            ["generate", TEXT, "--compare", "o.png", "--config", "mine.json"],
            ["there is no step config mine.json: make one with keystep export"],
            id="no config",
        ),
        pytest.param(
            ["generate", TEXT, "--compare", "o.png", "--config", "notes.json"],
            ["notes.json is not JSON", "line 1"],
            id="config is no JSON",
        ),
        pytest.param(
            ["generate", TEXT, "--compare", "o.png", "--seeds", "7-3"],
            ["--seeds is a list such as 0-7 or 1,5,20-29, got '7-3'"],
            id="seeds",
        ),
        pytest.param(
            ["generate", "something nice", "--compare", "o.png"],
            ["cannot tell which entities the prompt 'something nice' asks for", "--entities 'red circle, blue star'"],
            id="no entities",
        ),
        pytest.param(
            ["ui", "--no-browser"], ["mlflow.db does not exist", "keystep search", "--storage"], id="no store"
        ),
    ],
)
def test_a_mistake_on_the_command_line(arguments: list[str], said: list[str]) -> None:
    refused(arguments, *said)


def test_a_config_of_another_version() -> None:
    changed("old.json", "schema_version", value=0)
    said = ["old.json is not a valid StepConfig", "schema_version is 0", "export it again with this keystep"]
    refused(["generate", TEXT, "--config", "old.json", "--compare", "o.png"], *said)


def test_a_step_beyond_the_schedule_of_a_config() -> None:
    changed("far.json", "refinement", "iterref", "step_index", value=9)
    said = ["far.json", "step_index must be in 0..3 (sampler.num_inference_steps is 4), got 9"]
    refused(["generate", TEXT, "--config", "far.json", "--compare", "o.png"], *said)


def test_a_step_beyond_the_schedule_of_a_search() -> None:
    refused(
        ["search", "--set", "space.steps=[0, 12]"],
        "space.steps.1: step index 12 is outside the schedule: DDPMScheduler has steps 0..11",
    )


def test_a_model_that_is_not_there() -> None:
    changed("gone.json", "model", value="/nowhere/model")
    said = ["'/nowhere/model' is neither a folder that is here nor a hub id, which is OWNER/NAME", "keystep/shapes-sd"]
    refused(["generate", TEXT, "--config", "gone.json", "--compare", "o.png"], *said)
    with pytest.raises(ValueError, match=r"model\.id: no embedded model 'keystep/shapes-sdd'; choose from keystep/"):
        Evaluator(load_spec("shapes-sd", ["model.id=keystep/shapes-sdd"]))


def test_weights_that_are_pickled_or_of_a_variant_only(place: Path) -> None:
    weights = place / "model" / "vae"
    weights.mkdir(parents=True)
    (place / "model" / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderKL"]}))
    changed("mine.json", "model", value=str(place / "model"))
    (weights / "diffusion_pytorch_model.bin").touch()
    said = ["weights in vae are pickled (diffusion_pytorch_model.bin)", "keystep reads safetensors alone"]
    refused(["generate", TEXT, "--config", "mine.json", "--compare", "o.png"], *said)
    with pytest.raises(ValueError, match=r"model\.id: .* are pickled"):
        Evaluator(load_spec("shapes-sd", [f"model.id={place / 'model'}"]))
    (weights / "diffusion_pytorch_model.fp16.safetensors").touch()
    said = [
        "vae has weights of variant fp16 only",
        'name it: variant="fp16" of load_pipeline and StepConfig',
        "model.var",
    ]
    refused(["generate", TEXT, "--config", "mine.json", "--compare", "o.png"], *said)


def test_text_in_the_place_of_a_prompt() -> None:
    with pytest.raises(ValueError, match="names the entities that have to be in the picture, and str 'a photo of"):
        StepRefinement(CONFIG, TEXT)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"got 3: write seeds=\[3\]"):
        StepRefinement(CONFIG, Prompt(TEXT)).arguments(None, 3)  # pyright: ignore[reportArgumentType]


def test_a_config_of_another_family() -> None:
    pipe = load_pipeline("keystep/shapes-sd3")
    with pytest.raises(
        ValueError, match=r"a Stable Diffusion 1\.x model, and this pipeline is a Stable Diffusion 3\.5 one"
    ):
        StepRefinement(CONFIG, Prompt(TEXT)).arguments(pipe, [0])


def test_a_gpu_that_is_not_there() -> None:
    refused(
        ["generate", TEXT, "--compare", "o.png", "--device", "cuda:99"],
        "device 'cuda:99' cannot be used here",
        "leave it out to use what there is",
    )
    with pytest.raises(ValueError, match=r"^model\.device: device 'cuda:99' cannot be used here"):
        Evaluator(load_spec("shapes-sd", ["model.device=cuda:99"]))


def test_a_misspelt_entity() -> None:
    said = ["entity 'red cirle' is not in the prompt", "(it has 'circle': name the entity that)", TEXT]
    refused(["generate", TEXT, "--compare", "o.png", "--entities", "red cirle, blue star", "--seeds", "0"], *said)


def test_a_config_for_another_sampler() -> None:
    pipe = load_pipeline(CONFIG)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    refine = StepRefinement(CONFIG, Prompt(TEXT, [Entity("circle", "red"), Entity("star", "blue")]))
    with pytest.raises(ValueError, match=r"chosen with DDPMScheduler, and the pipeline has EulerDisc.*: set pipe\.sch"):
        refine.arguments(pipe, seeds=[0])
    changed("moved.json", "timestep", value=751.0)
    said = ["step index 1 was chosen for timestep 751", "timestep 501 there", "or select the step again"]
    refused(["generate", TEXT, "--config", "moved.json", "--compare", "o.png", "--seeds", "0"], *said)


def test_layers_of_another_model() -> None:
    changed("layers.json", "refinement", "attention", "layers", value=["transformer_blocks.3.attn"])
    said = ["no attention layer is called 'transformer_blocks.3.attn'; there are down_blocks.0.attentions.0"]
    refused(["generate", TEXT, "--config", "layers.json", "--compare", "o.png", "--seeds", "0"], *said)


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand pages more")

    monkeypatch.setattr("keystep.search.reporting.pictures.pictures", no_room)
    arguments = ["generate", TEXT, "--out", "pictures"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 1
    assert "out of memory" in result.stderr and "--batch-size 1" in result.stderr
    assert "pages more" not in result.stderr and "Traceback" not in result.stderr
    assert isinstance(CliRunner().invoke(build_app(), ["--debug", *arguments]).exception, torch.OutOfMemoryError)


def test_a_damaged_folder_of_images(place: Path) -> None:
    (place / "images").mkdir()
    stem = TEXT.replace(" ", "_")
    Image.new("RGB", (64, 64)).save(place / "images" / f"{stem}_0.png")
    (place / "images" / f"{stem}_1.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    Image.new("RGB", (64, 64)).save(place / "images" / "a_dog_0.png")
    said = ["the images are not what the prompts ask for", f"{stem}_1.png", "a_dog_0.png", "--allow-missing"]
    refused(["score", "images", "--prompts", "prompts.csv", "--device", "cpu"], *said)


def test_a_noun_that_the_detector_does_not_know(place: Path) -> None:
    (place / "images").mkdir()
    Image.new("RGB", (64, 64)).save(place / "images" / "a_photo_of_a_cat_0.png")
    said = ["detector keystep/shapes-segmenter cannot see 'cat'", "circle"]
    detector = ["--detector", "keystep/shapes-segmenter", "--device", "cpu"]
    refused(["score", "images", "--prompts", "cats.csv", *detector], *said)


def test_a_search_without_a_gain(place: Path) -> None:
    stored(place, gain=False)
    said = ["found no significant gain, and nothing was exported", "held-out prompts", "--force"]
    refused(["export", "tried", "--storage", place, "--out", "out.json"], *said)
    assert not Path("out.json").exists()


@pytest.mark.parametrize("path", ["/proc/keystep", "s4://bucket/prefix"])
def test_storage_that_cannot_be_written(path: str) -> None:
    with pytest.raises(ValueError, match=r"^storage\.path: .*(name a folder that can be written|must be a folder)"):
        Evaluator(load_spec("shapes-sd", [f"storage.path={path}"]))


def test_an_mlflow_server_that_is_down(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No mistake that ends a search: it goes on, and what could not be sent is kept."""
    spec = load_spec("shapes-sd", ["tracking.uri=http://me:hunter2@127.0.0.1:9", "prompts.sets=[shapes_two]"])
    tracker = Tracker(spec, place)
    tracker.start(*make_parts(spec), tuple(float(timestep) for timestep in range(12)))
    assert tracker.close(timeout=5) is False
    assert "the search goes on, events are kept in" in caplog.text and "and sent later" in caplog.text
    assert "sent when the search starts again" in tracker.status or "does not answer" in tracker.status
    assert "hunter2" not in caplog.text + tracker.status and os.path.exists(place / "tracking" / "spool.jsonl")


def test_a_port_that_is_taken(place: Path) -> None:
    (place / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(
            ["ui", "--no-browser", "--port", port], f"port {port} of 127.0.0.1 cannot be used", f"--port {port + 1}"
        )


def test_debug_shows_where_it_happened() -> None:
    result = CliRunner().invoke(build_app(), ["search", "sd15", "--debug"])
    assert isinstance(result.exception, ValueError) and result.exc_info is not None
