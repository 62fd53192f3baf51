"""`keystep prompts`: make, sample, split and convert prompt sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from keystep.search.commands.output import print_table
from keystep.search.reporting.table import Table

if TYPE_CHECKING:
    from keystep.evaluation.prompt_sets import PromptSet

from keystep.search.commands.numbers import finite

SHOWN = 10


def prompts(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A standard set, a template (.yaml), or prompts: .csv, .tsv, .json, .jsonl, GenEval's "
            "evaluation_metadata.jsonl, a folder with a Hugging Face dataset. Nothing: list the standard sets.",
            metavar="[TEMPLATE|NAME|FILE]",
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(help="Draw so many different prompts. [default: 300 of a standard set, all of a file]", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws and splits the same way everywhere.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write them: .csv, .jsonl, *metadata.jsonl (GenEval), or a folder (Hugging Face dataset)."),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Write two files instead, NAME-validation and NAME-held_out, which share no combination of nouns; "
            "the held-out one gets this share (below 1) or number of the prompts.",
            metavar="SHARE|NUMBER",
            max=1e9,
            callback=finite,
        ),
    ] = None,
    find_entities: Annotated[
        bool,
        typer.Option(
            "--find-entities",
            help="Read a list that names no entities (.txt, .csv, .tsv, .json): find them in prompts such as 'a red "
            "car and a dog', and leave the other prompts out.",
        ),
    ] = False,
) -> None:
    """Make a prompt set: sample a template, split it, or convert a file.

    Examples:

    ```
    keystep prompts
    keystep prompts two_colored --sample 300 --seed 0 --out prompts.csv
    keystep prompts mine.yaml --sample 200 --held-out 0.5 --out prompts.csv
    keystep prompts evaluation_metadata.jsonl --out geneval.csv
    keystep prompts color_val.txt --find-entities --out color.csv
    ```

    A template is a YAML file; `$ind_ar1` becomes a or an, `unique` keeps values apart:

    ```
    template: a photo of $ind_ar1 $adj1 $entity1 and $ind_ar2 $adj2 $entity2
    unique: [[entity1, entity2], [adj1, adj2]]
    entities: [cat, dog, fire hydrant]
    adjs: [red, blue, green]
    ```
    """
    from keystep.evaluation.prompt_io import load_prompt_set, write_prompts

    console = Console()
    if source is None:
        print_table(_standard_sets())
        return
    if find_entities:
        loaded = _with_entities_found(Path(source))
        loaded = loaded if sample is None else loaded.sample(sample, seed)
    else:
        loaded = load_prompt_set(source, sample, seed)
    parts = {out: loaded}
    if held_out is not None:
        if out is None:
            raise ValueError("--held-out writes two files: say where with --out, for instance --out prompts.csv")
        validation, test = loaded.split(held_out if held_out < 1 else int(held_out), seed)
        parts = {out.with_stem(f"{out.stem}-{part.name.rsplit('/', 1)[-1]}"): part for part in (validation, test)}
    for path, part in parts.items():
        if path is None:
            for prompt in part.prompts[:SHOWN]:
                console.print(prompt.text, markup=False, highlight=False, soft_wrap=True)
            if len(part) > SHOWN:
                console.print(f"... and {len(part) - SHOWN} more; write them with --out prompts.csv", style="dim")
        else:
            write_prompts(part, path)
        console.print(f"{len(part)} prompts, sha256 {part.hash[:16]}" + (f" -> {path}" if path else ""), soft_wrap=True)


def _with_entities_found(path: Path) -> "PromptSet":
    """The prompts of a list whose entities are plain; what was left out is told. ValueError if none is."""
    from keystep.evaluation.prompt_io import read_texts
    from keystep.evaluation.prompt_sets import PromptSet
    from keystep.search.commands.mentioned import mentioned_entities

    found, left_out = [], []
    for text in read_texts(path):
        try:
            found.append(mentioned_entities(text))
        except ValueError:
            left_out.append(text)
    if not found:
        raise ValueError(
            f"{path}: none of its {len(left_out)} prompts lists its entities as 'a red car and a dog' does; add the "
            "columns entity1, adj1, entity2, ... by hand"
        )
    if left_out:
        shown = "".join(f"\n    {text}" for text in left_out[:SHOWN])
        more = f"\n    ... and {len(left_out) - SHOWN} more" if len(left_out) > SHOWN else ""
        Console(stderr=True, soft_wrap=True).print(
            f"Left out {len(left_out)} prompts whose entities are not plain:{shown}{more}",
            style="yellow",
            markup=False,
            highlight=False,
        )
    return PromptSet(path.stem, tuple(found))


def _standard_sets() -> Table:
    from keystep.evaluation.prompt_sets import STANDARD_SETS, standard_template

    rows = []
    for name in STANDARD_SETS:
        template = standard_template(name)
        rows.append((name, f"{len(template):,}", template[len(template) // 2].text))
    return Table(("Set", ">Prompts", "For example"), rows, title="Standard prompt sets")
