"""`keystep prompts`: make, sample, split and convert prompt sets."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from search.commands.numbers import finite

SHOWN = 10


def prompts(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A standard set, a template (.yaml), or prompts: .csv, .jsonl, GenEval's evaluation_metadata.jsonl, "
            "a folder with a Hugging Face dataset. Nothing: list the standard sets.",
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
) -> None:
    """Make a prompt set: sample a template, split it, or convert a file.

    Examples:

    ```
    keystep prompts
    keystep prompts two_colored --sample 300 --seed 0 --out prompts.csv
    keystep prompts mine.yaml --sample 200 --held-out 0.5 --out prompts.csv
    keystep prompts evaluation_metadata.jsonl --out geneval.csv
    ```

    A template is a YAML file; `$ind_ar1` becomes a or an, `unique` keeps values apart:

    ```
    template: a photo of $ind_ar1 $adj1 $entity1 and $ind_ar2 $adj2 $entity2
    unique: [[entity1, entity2], [adj1, adj2]]
    entities: [cat, dog, fire hydrant]
    adjs: [red, blue, green]
    ```
    """
    from evaluation.prompt_io import load_prompt_set, write_prompts

    console = Console()
    if source is None:
        console.print(_standard_sets())
        return
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


def _standard_sets() -> Table:
    from evaluation.prompt_sets import STANDARD_SETS, standard_template

    table = Table("Set", "Prompts", "For example", title="Standard prompt sets")
    for name in STANDARD_SETS:
        template = standard_template(name)
        table.add_row(name, f"{len(template):,}", template[len(template) // 2].text)
    return table
