"""What nodes have found about themselves, judged: a line each, with what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keystep.cluster.checks.node_facts import WorkFacts
from keystep.search.spec.search_spec import SearchSpec

MAX_SKEW = 2.0  # seconds; times in logs and in MLflow would no longer be in order
GIGABYTE = 10**9


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: what.
        ok: whether a search can run with it as it is.
        found: what was seen.
        advice: what to do; empty if it is ok.
    """

    name: str
    ok: bool
    found: str
    advice: str


def answers(nodes: Mapping[str, Mapping[str, Any]], silent: Mapping[str, str]) -> Check:
    """Nodes that are alive, and why some do not answer."""
    if silent:
        return Check("nodes", False, _told(silent), "install keystep there, or take the node out of the cluster")
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in nodes.values())
    gpus = sum(node["Resources"].get("GPU", 0.0) for node in nodes.values())
    return Check("nodes", True, f"{len(nodes)} alive, {cpus:g} CPUs, {gpus:g} GPUs", "")


def versions(found: Mapping[str, Mapping[str, str]]) -> Check:
    """The same of everything on all nodes: other versions may make other images."""
    packages = sorted({name for each in found.values() for name in each})
    differing = []
    for package in packages:
        there: dict[str, list[str]] = {}
        for node, each in found.items():
            there.setdefault(each.get(package, "none"), []).append(node)
        if len(there) > 1:
            fewest = sorted(there.items(), key=lambda item: len(item[1]))
            differing.append(f"{package} " + ", ".join(f"{version} on {nodes[0]}" for version, nodes in fewest))
    if differing:
        return Check("versions", False, "; ".join(differing), "use one image or one lock file on all nodes")
    shown = next(iter(found.values()), {})
    told = ", ".join(f"{name} {shown[name]}" for name in ("python", "torch", "diffusers", "ray") if name in shown)
    return Check("versions", bool(found), told or "no node answered", "" if found else "see nodes")


def room(spec: SearchSpec, fit: int) -> Check:
    """Whether as many workers fit as the spec asks for."""
    wanted = spec.resources.workers or fit
    found = f"{fit} workers of {spec.resources.cpus:g} CPUs and {spec.resources.gpus:g} GPUs fit"
    if spec.resources.workers is not None and fit < spec.resources.workers:
        return Check("room for workers", False, found, f"set resources.workers={fit}, or add nodes for {wanted}")
    return Check("room for workers", True, f"{found}, {min(fit, wanted)} will run", "")


def workers_on(spec: SearchSpec, resources: Mapping[str, float]) -> int:
    """Workers that a node with these resources has room for."""
    fit = int(resources.get("CPU", 0.0) / spec.resources.cpus + 1e-9)
    return min(fit, int(resources.get("GPU", 0.0) / spec.resources.gpus + 1e-9)) if spec.resources.gpus else fit


def models(found: Mapping[str, WorkFacts]) -> Check:
    """Model, detector and prompts, on every node that has room for a worker."""
    name = "model, detector, prompts"
    trouble = {node: facts.trouble for node, facts in found.items() if facts.trouble}
    if trouble:
        return Check(name, False, _told(trouble), "put that right; models must be on a shared disk or in each cache")
    if not found:
        return Check(name, False, "no node has room for a worker", "see room for workers")
    slowest = max(facts.seconds for facts in found.values())
    kinds = ", ".join(sorted({facts.device for facts in found.values()}))
    return Check(name, True, f"loaded on {len(found)} nodes ({kinds}) in {slowest:.0f} s at most", "")


def memory(spec: SearchSpec, found: Mapping[str, WorkFacts], nodes: Mapping[str, Mapping[str, Any]]) -> Check:
    """What one batch took at its peak, for every worker of a GPU or node, against what is there."""
    needs: list[tuple[float, str]] = []
    trouble = {}
    for node, facts in found.items():
        if facts.trouble:
            continue
        if facts.memory_bytes:
            sharing = max(1, int(1 / spec.resources.gpus + 1e-9)) if 0 < spec.resources.gpus < 1 else 1
            there, what = float(facts.memory_bytes), "GPU"
        else:
            there, what = float(nodes[node]["Resources"].get("memory", 0.0)), "node"
            sharing = workers_on(spec, nodes[node]["Resources"])
            sharing = min(sharing, spec.resources.workers or sharing)
        told = f"{sharing} x {facts.peak_bytes / GIGABYTE:.1f} GB of {there / GIGABYTE:.1f} GB of its {what}"
        needs.append((sharing * facts.peak_bytes / max(there, 1.0), told))
        if needs[-1][0] > 1:
            trouble[node] = told
    if trouble:
        size = spec.resources.batch_size
        advice = f"lower resources.batch_size from {size}, or give a worker more of its GPU or node"
        return Check("memory", False, _told(trouble), advice)
    if not needs:
        return Check("memory", False, "not measured", "see model, detector, prompts")
    batch = f"a refined batch of {spec.resources.batch_size} takes"
    return Check("memory", True, f"{batch} {max(needs)[1]}", "")


def storage(path: str, trouble: Mapping[str, str]) -> Check:
    """Whether all nodes see what is written here, and the other way round: empty by node, else why not."""
    if not trouble:
        return Check("storage", False, "no node answered", "see nodes")
    bad = {node: told for node, told in trouble.items() if told}
    if bad:
        advice = "name a folder in storage.path that is mounted on all nodes, or s3://bucket/prefix"
        return Check("storage", False, f"{path}: {_told(bad)}", advice)
    return Check("storage", True, f"{path}: written and read by all of {len(trouble)} nodes", "")


def disks(spec: SearchSpec, free: Mapping[str, int]) -> Check:
    """Room for the latents: free bytes by node."""
    if not free:
        return Check("disk", False, "no node answered", "see nodes")
    wanted = spec.storage.latents_gb * GIGABYTE
    short = {node: f"{there / GIGABYTE:.1f} GB free" for node, there in free.items() if there < wanted}
    if short:
        most = max(0.1, 0.8 * min(free.values()) / GIGABYTE)
        advice = f"set storage.latents_gb={most:.1f}, or name a larger disk in storage.latents_path"
        return Check("disk", False, f"{_told(short)}, storage.latents_gb is {spec.storage.latents_gb:g}", advice)
    least = min(free.values()) / GIGABYTE
    return Check("disk", True, f"{least:,.0f} GB free, {spec.storage.latents_gb:g} GB for latents", "")


def clocks(skews: Mapping[str, tuple[float, float]]) -> Check:
    """How far apart clocks are: (seconds ahead, how far off that may be) by node."""
    bad = {node: f"{ahead:+.1f} s" for node, (ahead, off) in skews.items() if not abs(ahead) - off <= MAX_SKEW}
    if bad:
        return Check("clocks", False, _told(bad), "let NTP or chrony set the clocks of all nodes")
    worst = max((abs(ahead) + off for ahead, off in skews.values()), default=0.0)
    return Check("clocks", True, f"within {worst:.2f} s of this one", "")


def _told(by_node: Mapping[str, str], shown: int = 3) -> str:
    """The first few nodes with what each has to say; nodes that say the same are put together."""
    same: dict[str, list[str]] = {}
    for node, text in by_node.items():
        same.setdefault(text, []).append(node)
    parts = []
    for text, nodes in list(same.items())[:shown]:
        parts.append(f"{nodes[0]}{f' and {len(nodes) - 1} more' if len(nodes) > 1 else ''}: {text}")
    return "; ".join(parts) + (f"; and {len(same) - shown} more" if len(same) > shown else "")
