"""Dynamo: a DynamoGraphDeployment with a frontend and a worker of the engine that is simulated.

Schema: nvidia.com/v1beta1 as Dynamo 1.6.1 serves it. The operator tells the engines of a worker on
several nodes where the first node is, so their flags leave that out.
"""

from __future__ import annotations

import re

from sim.inputs.deployment import Ep
from sim.study.launch import sglang, trtllm, vllm
from sim.study.launch.needs import Needs
from sim.study.launch.parts import EngineCommand, comment, in_yaml
from sim.study.launch.rank_group import RankGroup

VERSION = "1.6.1"

# Engines that Dynamo runs, by the profiles of software; vLLM for profiles of no such engine.
_ENGINES = {"sglang": "sglang", "trtllm": "trtllm", "vllm": "vllm"}

_IMAGES = {
    "sglang": "sglang-runtime",
    "trtllm": "tensorrtllm-runtime",
    "vllm": "vllm-runtime",
}

_MOST_NAME = 45


def framework(needs: Needs) -> str:
    """Return the engine behind Dynamo: that of the software profile, or vLLM."""
    return _ENGINES.get(needs.scenario.software.profile or "", "vllm")


def command(needs: Needs, ep: Ep, group: RankGroup) -> EngineCommand:
    """Return the worker's command."""
    engine = framework(needs)
    if engine == "trtllm":
        told = trtllm.command(needs, ep, group)
    elif engine == "sglang":
        told = sglang.command(needs, ep, group, joins=False, renamed=False)
    else:
        told = vllm.command(needs, ep, group, joins=False)
    cannot = [
        *told.cannot,
        "image, volumes, secrets and RDMA devices are the cluster's: the image is NVIDIA's of "
        f"Dynamo {VERSION}",
    ]
    if needs.scenario.software.profile not in _ENGINES:
        cannot.append(f"software: no profile of an engine that Dynamo runs, so {engine} is taken")
    program = ("python3", "-m", f"dynamo.{engine}")
    return EngineCommand(program, told.options, cannot, told.exports)


def deployment(head: list[str], needs: Needs, group: RankGroup, worker: EngineCommand) -> str:
    """Return the text of a DynamoGraphDeployment."""
    engine = framework(needs)
    image = f"nvcr.io/nvidia/ai-dynamo/{_IMAGES[engine]}:{VERSION}"
    lines = [*map(comment, head), "#", comment("Not in this file:")]
    lines += [comment(f"- {each}") for each in worker.cannot]
    lines += [
        "apiVersion: nvidia.com/v1beta1",
        "kind: DynamoGraphDeployment",
        "metadata:",
        f"  name: {_resource_name(needs.scenario.name)}  # name",
        "spec:",
        f"  backendFramework: {engine}  # software.profile",
        "  components:",
        *_component("Frontend", "frontend", image, ("python3", "-m", "dynamo.frontend")),
        *_component("Worker", "worker", image, worker.program, group),
        "              args:",
    ]
    at = " " * 16
    lines += [f"{at}- {'--model' if engine == 'vllm' else '--model-path'}", f'{at}- "$(MODEL)"']
    for option in worker.options:
        lines.append(f"{at}- {in_yaml(option.name)}  {comment(option.source)}")
        word = option.word()
        # Kubernetes would put the value of VAR in the place of $(VAR).
        lines += [] if word is None else [f"{at}- {in_yaml(word.replace('$(', '$$('))}"]
    model = "SET: path or Hugging Face name of the checkpoint"
    lines += ["              env:", f"{at}- name: MODEL", f"{at}  value: {in_yaml(model)}"]
    for export in worker.exports:
        lines.append(f"{at}- name: {export.name}  {comment(export.source)}")
        lines.append(f"{at}  value: {in_yaml(export.word() or '')}")
    gpus = f"nvidia.com/gpu: {in_yaml(str(group.gpus_per_node))}"
    lines += ["              resources:", "                limits:"]
    lines.append(f"                  {gpus}  {comment(f'node.gpus of {group.accelerator}')}")
    return "\n".join([*lines, ""])


def _component(
    name: str, kind: str, image: str, program: tuple[str, ...], group: RankGroup | None = None
) -> list[str]:
    lines = [f"    - name: {name}", f"      type: {kind}", "      replicas: 1"]
    if group is not None and group.nodes > 1:
        told = comment(f"{group.gpus_source}, node.gpus of {group.accelerator}")
        lines += ["      multinode:", f"        nodeCount: {group.nodes}  {told}"]
    return [
        *lines,
        "      podTemplate:",
        "        spec:",
        "          containers:",
        "            - name: main",
        f"              image: {image}",
        f"              command: [{', '.join(in_yaml(word) for word in program)}]",
    ]


def _resource_name(name: str) -> str:
    """Return a name that Kubernetes takes: small letters, digits and dashes."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_MOST_NAME].strip("-")
    return text if text[:1].isalpha() else f"afdsim-{text}".rstrip("-")
