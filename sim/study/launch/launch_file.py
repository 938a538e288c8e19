"""Launch file: a validated scenario as an engine takes it.

The file holds what the engine has an option for. The rest is told in its head and in `cannot`.
"""

from __future__ import annotations

from sim.foundation.errors import InfeasibleError, ScenarioError, did_you_mean
from sim.inputs.deployment import Afd, Ep
from sim.inputs.naming import folder_name
from sim.inputs.scenario import Scenario
from sim.study.launch import afd_plugin, dynamo, sglang, vllm
from sim.study.launch.needs import Needs
from sim.study.launch.parts import EngineCommand, LaunchFile
from sim.study.launch.rank_group import attention_group, ep_group, ffn_group
from sim.study.launch.script import script

ENGINES = {
    "vllm": f"vLLM {vllm.VERSION}",
    "sglang": f"SGLang {sglang.VERSION}",
    "dynamo": f"Dynamo {dynamo.VERSION}",
    "afd-plugin": f"afd-plugin {afd_plugin.VERSION} on vLLM 0.26.0",
}
"""Engines that a launch file can be for, with the versions whose options it has."""


def launch_file(scenario: Scenario, engine: str) -> LaunchFile:
    """Return the launch file of a scenario for one of `ENGINES`.

    Raises ScenarioError for an unknown engine, and InfeasibleError if the engine cannot run a
    deployment of this kind at all.
    """
    if engine not in ENGINES:
        raise ScenarioError(f"unknown engine {engine!r}; {did_you_mean(engine, ENGINES)}")
    deployment = scenario.deployment
    if isinstance(deployment, Afd):
        if engine != "afd-plugin":
            raise InfeasibleError(
                f"{ENGINES[engine]} does not separate attention from FFN: take afd-plugin"
            )
        return _afd(scenario, deployment)
    if engine == "afd-plugin":
        raise InfeasibleError("afd-plugin runs AFD alone: take vllm, sglang or dynamo")
    return _ep(scenario, deployment, engine)


def _ep(scenario: Scenario, ep: Ep, engine: str) -> LaunchFile:
    group = ep_group(ep)
    needs, name = Needs(scenario, group.dp), folder_name(scenario.name)
    head = _head(scenario, engine, group.words())
    if engine == "dynamo":
        worker = dynamo.command(needs, ep, group)
        text = dynamo.deployment(head, needs, group, worker)
        return LaunchFile(f"{name}.dynamo.yaml", text, tuple(worker.cannot))
    one: EngineCommand
    if engine == "sglang":
        one = sglang.command(needs, ep, group, joins=True)
    else:
        one = vllm.command(needs, ep, group, joins=True)
    text = script(head, one.cannot, {"": one}, group.nodes)
    return LaunchFile(f"{name}.{engine}.sh", text, tuple(one.cannot))


def _afd(scenario: Scenario, afd: Afd) -> LaunchFile:
    attention, ffn = attention_group(afd), ffn_group(afd)
    needs = Needs(scenario, attention.dp)
    roles, cannot = afd_plugin.commands(needs, afd, attention, ffn)
    shape = f"attention: {attention.words()}; FFN: {ffn.words()}"
    head = _head(scenario, "afd-plugin", shape)
    text = script(head, cannot, roles, max(attention.nodes, ffn.nodes))
    name = folder_name(scenario.name)
    return LaunchFile(f"{name}.afd-plugin.sh", text, tuple(cannot))


def _head(scenario: Scenario, engine: str, shape: str) -> list[str]:
    return [
        f"{scenario.name} for {ENGINES[engine]}, written by afdsim.",
        f"{scenario.model}, {scenario.deployment.shape_name()}: {shape}.",
        "Behind each option: the keys of the scenario that it comes from.",
    ]
