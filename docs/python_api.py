"""afdsim from Python, in cells that editors run one by one; as a script it takes 20 s."""

# %% [markdown]
# # From Python
#
# What the command line does, `sim` does in one call each; every name has a docstring. Results are
# written below `results/runs`. This page is the script `docs/python_api.py`: open it in an editor
# that runs cells, or run it with `.venv/bin/python docs/python_api.py` (20 s).
#
# ## A scenario
#
# `load` finds a scenario by name or path and overwrites values as `--set` does. `simulate` runs it,
# `summary` gives its figures by name.

# %%
from pathlib import Path

import sim

scenario = sim.load("dsv3-ep8-h200", ["workload.arrivals.requests_per_gpu=48"])
figures = sim.summary(sim.simulate(scenario))
print(f"{figures['tgs']:.0f} tokens/s/GPU at TPOT {figures['tpot_ms_mean']:.1f} ms")

# %% [markdown]
# A mistake is a `sim.ScenarioError` that lists every mistake with its remedy; a shape that cannot
# run is a `sim.InfeasibleError`. All errors of afdsim are `sim.SimError`.

# %%
try:
    sim.load("dsv3-ep8-h200", ["workload.arrivals.requests_per_gpu=-1"])
except sim.ScenarioError as error:
    print(error)

# %% [markdown]
# ## What limits it, and how sure that is
#
# `explain_scenario` gives the critical circuit and what faster stages are worth; `how_sure` the
# prediction interval and its sources by share.

# %%
explained = sim.explain_scenario(scenario)
print(explained.circuit.kind)

sure = sim.how_sure(scenario)
print(f"80 %: {sure.tpot_ms_p10:.1f} to {sure.tpot_ms_p90:.1f} ms")
for source in sure.sources[:3]:
    print(f"  {source.share:.0%} {source.name}")

# %% [markdown]
# ## What to run
#
# `recommend` finds the best deployment of a model on GPUs, and the best of the other kind
# ([how](recommend.md)). A small model takes seconds, DeepSeek-V3 on 64 GPUs half a minute.

# %%
found = sim.recommend(model="deepseek-v2-lite", gpus="8xh200-sxm", context=8192, tpot_ms=20)
print(f"{found.answer.shape}: {found.answer.tokens_per_s:,.0f} tokens/s")
if found.margin is not None:
    print(f"leads with a probability of {found.margin.probability(0.0):.0%}")

# %% [markdown]
# ## The largest batch within a target
#
# `max_batch_under_slo` finds it; the bound engine does so in milliseconds, without chance.

# %%
quick = scenario.with_settings({"simulation.engine": "bound", "slo.tpot_ms": 50})
largest = sim.max_batch_under_slo(quick, "mean")
print(f"{largest['batch']} requests a GPU within 50 ms: {largest['tgs']:.0f} tokens/s/GPU")

# %% [markdown]
# ## Two scenarios
#
# `compare` runs both on the same random requests until their difference is known closely enough.
# `margin_of` says what is not known of a lead.

# %%
few = ["simulation.min_steps=20", "simulation.max_steps=20"]
afd, ep = sim.load("step3-2a2f", few), sim.load("dsv3-ep128", few)
for difference in sim.compare(afd, ep, most=10).differences:
    print(difference.sentence())

# %% [markdown]
# ## A run that is saved
#
# `run` writes what `afdsim run` writes; `load_results` reads tables and provenance of any result.

# %%
saved = sim.run(scenario, Path("results/runs/from-python"))
steps = sim.load_results(saved.folder).tables["steps"]
print(f"{len(steps)} steps, {saved.folder}/run.json")

# %% [markdown]
# ## A sweep
#
# `sweep` takes a name, a path or a file that you wrote, and returns its points as a table.

# %%
Path("shapes.yaml").write_text(
    """
kind: sweep
name: shapes
set: {simulation.engine: bound, slo.tpot_ms: 50}
families:
  - family: Step-3 on H200
    base: step3-2a2f
    set: {deployment.attention.accelerator: h200-sxm, deployment.ffn.accelerator: h200-sxm}
    max_batch_under_slo: mean
    axes:
      - deployment.attention.instances: {from: 1, to: 6, step: 1}
      - deployment.ffn.instances: [1, 2]
""",
    encoding="utf-8",
)
table = sim.sweep("shapes.yaml").sort_values("tgs", ascending=False)
print(table[["shape", "tpot_ms_mean", "tgs", "tgs_p10", "tgs_p90"]].head(3).to_string(index=False))

# %% [markdown]
# ## Measured points
#
# `judge_points` predicts every row of a file of operating points ([columns](accuracy.md)). The
# times of the sample are invented.

# %%
for row in sim.judge_points("scenarios/samples/points.csv"):
    if row.error is not None:
        print(f"{row.point.id}: {row.error:+.1%}")

# %% [markdown]
# ## Pages, and what takes minutes
#
# `run_sweep` and `run_study` keep every finished point below `results/runs`: run them again and
# nothing runs twice. Their workers import the calling script, so they stand under
# `if __name__ == "__main__":` in a script of their own. `draw` writes the page.
#
# ```python
# import sim
#
# if __name__ == "__main__":
#     result = sim.run_sweep("shapes.yaml", workers=1)
#     print(f"open {sim.draw(result)}")
# ```
#
# A study works the same way; with one context, this one takes some 10 minutes on 2 cores:
#
# ```python
# import sim
#
# if __name__ == "__main__":
#     result = sim.run_study("afd-vs-ep", only=["context=4K"], workers=2)
#     for cell in result.cells:
#         print(cell.cell.name(), cell.verdict, cell.margin)
#     table = sim.load_results(result.folder).tables["study"]
#     print(table[["side", "shape", "tgs", "usd_per_1m_tokens"]])
#     print(f"open {sim.draw(result)}")
# ```
#
# `sim` also has `capacity`, `coverage`, `plot`, `import_model`, `launch_file`,
# `fit_table`, `check_tables` and `fit_software`.
