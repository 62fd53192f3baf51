"""Whether a search can run on a cluster, found out before it does: nodes, models, storage, tracking, clocks, disks."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from keystep.cluster.checks import node_checks
from keystep.cluster.checks.node_checks import Check
from keystep.cluster.checks.node_facts import HERE, NodeFacts, WorkFacts, clock, look_around, try_work
from keystep.cluster.checks.tracking_check import tracking_trouble
from keystep.search.runtime.failures import in_a_line
from keystep.search.runtime.ray_runtime import start_ray
from keystep.search.runtime.ray_watch import watched
from keystep.search.spec.search_spec import SearchSpec
from keystep.search.storing.secrets import masked
from keystep.search.storing.storage import Storage
from keystep.search.tracking.tracking_uri import tracking_uri
from keystep.search.work.pool import workers_that_fit

__all__ = ["Check", "doctor"]

ANSWER_SECONDS = 120.0  # for a node to say what it is
WORK_SECONDS = 900.0  # for its worker to load the models and make a batch
CLOCK_QUESTIONS = 4  # a node, of which the quickest answer counts


@watched()
def doctor(
    spec: SearchSpec, address: str | None = None, on_step: Callable[[str], None] = lambda step: None
) -> tuple[Check, ...]:
    """Try everything that a search needs, on every node of the cluster. Nothing that was written stays.

    Args:
        spec: the search.
        address: of a Ray cluster; None is RAY_ADDRESS, or a runtime of this machine.
        on_step: told what is tried next.

    Returns:
        One check a line, in the order that they are best put right.

    Raises:
        ValueError: no cluster answers at the address; prompt sets that cannot be read.
    """
    spec = spec.anchored()
    on_step("joining Ray")
    start_ray(address)
    nodes = {_name(node): node for node in ray.nodes() if node["Alive"]}
    folder = f"doctor-{uuid.uuid4().hex}"
    on_step("storage")
    storage = _written(spec, folder)
    try:
        on_step(f"looking around on {len(nodes)} nodes")
        found = _ask(nodes, look_around, lambda name: (spec, folder, name), ANSWER_SECONDS)
        answered = {name: facts for name, facts in found.items() if isinstance(facts, NodeFacts)}
        checks = [
            node_checks.answers(nodes, {name: each for name, each in found.items() if isinstance(each, str)}),
            node_checks.versions({name: facts.versions for name, facts in answered.items()}),
            _room(spec),
        ]
        shared = storage if isinstance(storage, Check) else _shared(spec, storage, folder, answered)
    finally:
        if isinstance(storage, Storage):
            storage.remove(folder)
    on_step("loading models, making a batch of images")
    able = {name: node for name, node in nodes.items() if node_checks.workers_on(spec, node["Resources"])}
    worked = _ask(
        able, try_work, lambda name: (spec,), WORK_SECONDS, cpus=spec.resources.cpus, gpus=spec.resources.gpus
    )
    work = {name: each if isinstance(each, WorkFacts) else WorkFacts(trouble=each) for name, each in worked.items()}
    checks += [node_checks.models(work), node_checks.memory(spec, work, able), shared]
    checks.append(node_checks.disks(spec, {name: facts.free_bytes for name, facts in answered.items()}))
    on_step("tracking")
    checks.append(_tracking(spec))
    on_step("clocks")
    checks.append(node_checks.clocks({name: _skew(nodes[name]) for name in answered}))
    return tuple(checks)


def _written(spec: SearchSpec, folder: str) -> Storage | Check:
    """The storage with a file in `folder`; or the check that says why it cannot be written."""
    try:
        storage = Storage(spec.storage.path)
        storage.write(f"{folder}/{HERE}", folder.encode())
    except (ValueError, OSError) as error:
        return Check("storage", False, masked(str(error)), "name another storage.path, or make it writable")
    return storage


def _shared(spec: SearchSpec, storage: Storage, folder: str, answered: dict[str, NodeFacts]) -> Check:
    """Every node has read what was written here, and what each has written is there to be read."""
    trouble = {name: facts.storage for name, facts in answered.items()}
    for name in answered:
        if not trouble[name]:
            try:
                seen = storage.read(f"{folder}/{name}") == name.encode()
            except OSError:
                seen = False
            trouble[name] = "" if seen else "what it writes is not seen here"
    return node_checks.storage(masked(spec.storage.path), trouble)


def _room(spec: SearchSpec) -> Check:
    try:
        return node_checks.room(spec, workers_that_fit(spec.resources))
    except ValueError as error:
        return Check("room for workers", False, str(error), "lower resources.cpus and resources.gpus, or add nodes")


def _tracking(spec: SearchSpec) -> Check:
    if not spec.tracking.enabled:
        return Check("tracking", True, "not enabled", "")
    uri, trouble = masked(tracking_uri(spec)), tracking_trouble(spec)
    if trouble:
        advice = (
            "start the server, or correct tracking.uri and its credentials (a search runs without it, and sends later "
            "what it has kept)"
        )
        return Check("tracking", False, f"{uri}: {trouble}", advice)
    return Check("tracking", True, f"{uri} takes what is written, and deletes it", "")


def _skew(node: dict[str, Any]) -> tuple[float, float]:
    """Seconds that a node's clock is ahead, and how far off that may be."""
    best = (0.0, float("inf"))
    for _ in range(CLOCK_QUESTIONS):
        began = time.time()
        answer = _ask({"": node}, clock, lambda name: (), ANSWER_SECONDS)[""]
        ended = time.time()
        if isinstance(answer, float) and ended - began < 2 * best[1]:
            best = (answer - (began + ended) / 2, (ended - began) / 2)
    return best


def _ask(
    nodes: dict[str, dict[str, Any]],
    question: Callable[..., Any],
    arguments: Callable[[str], Sequence[Any]],
    timeout: float,
    *,
    cpus: float = 0.0,
    gpus: float = 0.0,
) -> dict[str, Any]:
    """What `question` returns on each node, asked of all at once; a text says why there is no answer."""
    references = {
        name: ray.remote(question)
        .options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(*arguments(name))
        for name, node in nodes.items()
    }
    if not references:
        return {}
    ready, _ = ray.wait(list(references.values()), num_returns=len(references), timeout=timeout)
    return {name: _answer(each, each in ready, timeout) for name, each in references.items()}


def _answer(reference: Any, ready: bool, timeout: float) -> Any:
    if not ready:
        ray.cancel(reference, force=True)
        return f"no answer in {timeout:.0f} s: it may be busy with something else"
    try:
        return ray.get(reference)
    except RayTaskError as failed:
        return in_a_line(failed)
    except RayError as failed:
        return f"its worker died ({type(failed).__name__}), for want of memory perhaps"


def _name(node: dict[str, Any]) -> str:
    """Its address, and a bit of its id: several nodes may share an address."""
    return f"{node['NodeManagerAddress']}-{node['NodeID'][:6]}"
