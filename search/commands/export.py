"""`keystep export`: the winner of a search as a step config, and as a registered model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def export(
    search: Annotated[
        str, typer.Argument(help="A search: its id, its name, its folder or its result.json.", metavar="SEARCH")
    ],
    out: Annotated[Path, typer.Option(help="Write the step config here (.json).")] = Path("step_config.json"),
    register: Annotated[
        str | None,
        typer.Option(
            help="Also log it as a model that MLflow serves, under this name in its registry.", metavar="NAME"
        ),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Point this alias, such as production, at the registered version.")
    ] = None,
    runner_up: Annotated[bool, typer.Option("--runner-up", help="Export the runner-up instead of the winner.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Export without a significant gain on held-out prompts.")
    ] = False,
    storage: Annotated[str | None, typer.Option(help="The search's storage.path. [default: ./keystep-runs]")] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="MLflow to register with. [default: the search's, else MLFLOW_TRACKING_URI, else sqlite:///mlflow.db]"
        ),
    ] = None,
) -> None:
    """Write the step config that production loads, with the evidence for it.

    Refuses a setting that is not shown to be better than the unrefined model on held-out prompts, unless `--force`.

    Examples:

    ```
    keystep export shapes-sd --out step_config.json
    keystep export shapes-sd --register keystep-shapes-sd --alias production
    mlflow models serve -m models:/keystep-shapes-sd@production \\
        --env-manager local
    ```
    """
    if out.suffix != ".json":
        raise ValueError(f"--out is a .json file, got {out}")
    if alias is not None and register is None:
        raise ValueError("--alias names a version of a registered model: give --register NAME too")
    from keystep.search.choice.stored_searches import load_result
    from keystep.search.settings.settings_text import setting_text
    from keystep.search.shipping.exporting import evidence_text, step_config

    result = load_result(search, storage)
    config = step_config(result, runner_up=runner_up, force=force)
    config.save(out)
    console = Console(highlight=False, soft_wrap=True)
    setting, evidence = setting_text(config.refinement, result.timesteps), evidence_text(config)
    console.print(f"{setting}\n{evidence}\n-> {out}", markup=False)
    if register is None:
        return
    from keystep.search.shipping.serving import register as register_model

    made = register_model(
        config, register, result.spec, alias=alias, uri=tracking_uri, description=f"{setting}. {evidence}"
    )
    console.print(f"-> {made.name}, version {made.version}", markup=False)
    console.print(
        f"Serve it:\n  MLFLOW_TRACKING_URI='{made.store}' mlflow models serve -m '{made.uri}' --env-manager local\n"
        "Ask it:\n  curl http://127.0.0.1:5000/invocations -H 'Content-Type: application/json' -d "
        """'{"inputs": [{"prompt": "a cat and a dog", "entities": "cat, dog", "seed": 0}]}'""",
        markup=False,
    )
