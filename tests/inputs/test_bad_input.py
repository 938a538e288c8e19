"""Bad input: all mistakes at once, each with its place and its remedy, and never a traceback."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.foundation.errors import EXIT_BAD_INPUT, ScenarioError
from sim.inputs import cards, scenario
from sim.inputs.documents.document import parse, read
from sim.inputs.hardware import Accelerator
from sim.inputs.lengths import CsvLengths
from sim.inputs.scenario import Scenario
from sim.sweeps import sweep
from tests.strategies.texts import assignments, csv_texts, mangled

SHIPPED = {
    name: cards.find(cards.SCENARIOS, name, "scenario").read_text()
    for name in cards.names(cards.SCENARIOS)
}
# With figures of its own instead of a profile's.
STEP3 = SHIPPED["step3-2a2f"].replace(
    "software: step3\n",
    """software:
  measured_on: deepseek-v3
  glue_us_per_layer: {value: 35, source: "norms, rope, quantisation and router of DeepSeek-V3"}
  host_gap_us_per_step: {value: 1000, source: "about 1 ms of host time per decode step"}
  overlap_slowdown: {value: 1.0, source: "Step-3 report, section 7"}
""",
)


def problems(text: str, name: str = "bad.yaml") -> list[str]:
    """Return the mistakes that are reported of a scenario."""
    with pytest.raises(ScenarioError) as caught:
        scenario.from_document(parse(text, name))
    assert caught.value.exit_code == EXIT_BAD_INPUT
    return list(caught.value.problems)


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    return text


def told(load: Callable[[], object]) -> tuple[str, ...]:
    """Return the mistakes that `load` tells of, none if it finds none."""
    try:
        load()
    except ScenarioError as error:
        return error.problems or ("told of nothing",)
    return ()


def place(text: str, line_with: str, key: str) -> str:
    """Return line:column of `key` in the only line that holds `line_with`."""
    (number,) = [n for n, line in enumerate(text.splitlines(), 1) if line_with in line]
    return f"{number}:{text.splitlines()[number - 1].index(key) + 1}"


# What stands in the file, where it is told (a line's text and the key in it), path, and remedy.
MISTAKES = [
    ("model: step3\n", "model: step4\n", ("model: step4", "model"), "model", "'step3'"),
    ("a2f: broadcast", "a2f: broadcas", ("broadcas", "a2f"), "deployment.a2f", "'broadcast'"),
    ("a2f_dtype: fp8", "a2f_dtype: fp9", ("fp9", "a2f_dtype"), "deployment.a2f_dtype", "'fp8'"),
    ("f2a_dtype: bf16", "f2a_dtype: 16", ("f2a_dtype", "f2a"), "deployment.f2a_dtype", "got 16"),
    ("duplex: full", "duplex: [full]", ("duplex", "duplex"), "deployment.duplex", "['full']"),
    ("fabric: rdma", "fabric: rmda", ("rmda", "fabric"), "deployment.fabric", "'rdma'"),
    (
        "  micro_batches: 3",
        "  micro_batches: 9\n  microbatches: 3",
        ("micro_batches: 9", "micro_batches"),
        "deployment.micro_batches",
        "less than or equal to 8 (got 9)",
    ),
    (
        "attention: {accelerator: h800, instances: 2, gpus_per_instance: 8, o_proj_tp: 1,",
        "attention: {accelerator: h8000, instances: -2, gpus_per_instance: 8.5, o_proj_pt: 1,",
        ("attention: {", "accelerator"),
        "deployment.attention.accelerator",
        "'h800'",
    ),
    (
        "ffn: {accelerator: h800, instances: 2,",
        "ffn: {accelerator: h800, instances: true,",
        ("instances: true", "instances"),
        "deployment.ffn.instances",
        "valid integer (got True)",
    ),
    ("parallelism: tp_ep", "parallelism: tp_pe", ("tp_pe", "paral"), "deployment.ffn", "'tp_ep'"),
    ("{gemm: fp8,", "{gemm: fp_8,", ("fp_8", "gemm"), "precision.gemm", "'fp8'"),
    (
        "glue_us_per_layer: {value: 35,",
        "glue_us_per_layer: {value: .nan,",
        (".nan", "value"),
        "software.glue_us_per_layer.value",
        "finite",
    ),
    (
        'overlap_slowdown: {value: 1.0, source: "',
        'overlap_slowdown: {value: 1.0, sauce: "',
        ("sauce", "sauce"),
        "software.overlap_slowdown.sauce",
        "unknown key",
    ),
    ("utilisation: 0.9", "utilisation: 1.5", ("1.5", "util"), "memory.utilisation", "equal to 1"),
    ("tokens: 64}", "tokens: 0}", ("tokens: 0", "kv_b"), "memory.kv_block_tokens", "(got 0)"),
    ("concurrency: 6144", "concurrency: 6_000", ("6_000", "conc"), "workload", "write 6000"),
    ("prompt: {kind: fixed", "prompt: {kind: fixd", ("fixd", "kind"), "workload", "'fixed'"),
    ("tokens: 1024}", "tokens: null}", ("null", "tokens"), "workload", "integer (got None)"),
    ("tpot_ms: 50", "tpot_ms: .inf", (".inf", "tpot_ms"), "slo.tpot_ms", "finite number (got inf)"),
    ("{seed: 0}", "{seed: -1}", ("-1}", "seed"), "simulation.seed", "(got -1)"),
]  # fmt: skip
ALL_WRONG = replaced(STEP3, *[(old, new) for old, new, *_ in MISTAKES])
# What the lines above bring along, and two keys more.
ALL_WRONG += "slo: {tpot_ms: 60}\nprecison: 3\n"
FURTHER = [
    (("attention: {", "instances"), "deployment.attention.instances", "greater than 0 (got -2)"),
    (("attention: {", "gpus_per"), "deployment.attention.gpus_per_instance", "(got 8.5)"),
    (("attention: {", "o_proj_pt"), "deployment.attention.o_proj_pt", "'o_proj_tp'"),
    (("microbatches", "microbatches"), "deployment.microbatches", "'micro_batches'"),
    (("tpot_ms: 60", "slo"), "slo", "duplicate key, first at line"),
    (("precison", "precison"), "precison", "'precision'"),
]


def test_twenty_mistakes_are_reported_together() -> None:
    assert len(MISTAKES) == 20
    reported = problems(ALL_WRONG)
    assert len(reported) == len(set(reported))
    assert all(re.match(r"bad\.yaml:\d+:\d+: [\w.]+: ", line) for line in reported)


@pytest.mark.parametrize(
    ("where", "path", "remedy"), [row[2:] for row in MISTAKES] + FURTHER, ids=str
)
def test_each_of_them_with_its_place_and_remedy(
    where: tuple[str, str], path: str, remedy: str
) -> None:
    at = f"bad.yaml:{place(ALL_WRONG, *where)}: {path}"
    assert [line for line in problems(ALL_WRONG) if line.startswith(at) and remedy in line]


def test_a_missing_source_is_a_mistake() -> None:
    (line,) = problems(re.sub(r"(host_gap_us_per_step: {value: 1000), source: .*}", r"\1}", STEP3))
    assert re.match(r"bad.yaml:\d+:3: software.host_gap_us_per_step.source: missing", line)


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("concurrency: 6144", "concurrency: 6_000", "workload.arrivals.concurrency"),
        ("concurrency: 6144", "concurrency: 06144", "workload.arrivals.concurrency"),
        ("tpot_ms: 50", "tpot_ms: 0o50", "slo.tpot_ms"),
        ("utilisation: 0.9", 'utilisation: "0.9"', "memory.utilisation"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_told_as_yaml_reads_it(
    old: str, new: str, path: str
) -> None:
    wrong = replaced(STEP3, (old, new))
    (line,) = problems(wrong)
    assert f"{path}: " in line
    text = new.split(": ")[1].strip('"')
    found = re.search(rf"YAML reads {re.escape(text)} as text, write (\S+) ", line)
    assert found
    # Who does what the message says has repaired the file.
    repaired = replaced(wrong, (new, f"{new.split(': ')[0]}: {found[1]}"))
    assert isinstance(scenario.from_document(parse(repaired, "good.yaml")), Scenario)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("concurrency: 6144", "concurrency: 6e3"),
        ("concurrency: 6144", "concurrency: 0x1800"),
        ("tpot_ms: 50", "tpot_ms: 5e1"),
        ("tpot_ms: 50", "tpot_ms: 50."),
        ("tpot_ms: 50", "tpot_ms: 5.0E+1"),
        ("utilisation: 0.9", "utilisation: 9e-1"),
        ("utilisation: 0.9", "utilisation: .9"),
    ],
)
def test_a_number_as_yaml_1_2_has_them_is_that_number(old: str, new: str) -> None:
    key, number = new.split(": ")
    written = scenario.from_document(parse(replaced(SHIPPED["step3-2a2f"], (old, new)), "new.yaml"))
    value = int(number, 0) if number.startswith("0x") else float(number)
    usual = replaced(
        SHIPPED["step3-2a2f"], (old, f"{key}: {int(value) if value >= 1 else value!r}")
    )
    assert written == scenario.from_document(parse(usual, "usual.yaml"))
    path = {"concurrency": "workload.arrivals.concurrency", "tpot_ms": "slo.tpot_ms"}.get(
        key, "memory.utilisation"
    )
    overwritten = scenario.load("step3-2a2f", [f"{path}={number}"])  # and told in its description
    assert overwritten.model_copy(update={"description": written.description}) == written


@given(st.floats(-1e90, 1e90), st.sampled_from(["e", "f", "g", "E"]))
def test_every_way_to_print_a_float_is_read_as_that_float(value: float, form: str) -> None:
    text = f"{value:{form}}"
    assert parse(f"a: {text}", "a.yaml").data["a"] == float(text)


@pytest.mark.parametrize("text", ["1_000", "010", "0o10", "1:30", "0b11", "1:30.5", "1e", "+0x1"])
def test_what_yaml_versions_read_as_different_numbers_is_no_number(text: str) -> None:
    assert parse(f"a: {text}", "a.yaml").data["a"] == text
    (line,) = problems(replaced(STEP3, ("concurrency: 6144", f"concurrency: {text}")))
    assert "valid integer" in line


@pytest.mark.parametrize(("text", "meant"), [("yes", "true"), ("off", "false"), ("No", "false")])
def test_words_of_yaml_1_1_for_truth_are_text(text: str, meant: str) -> None:
    card = CARDS[cards.ACCELERATORS, "h800"]
    wrong = re.sub("in_network_collectives: true", f"in_network_collectives: {text}", card)
    with pytest.raises(ScenarioError) as caught:
        parse(wrong, "h.yaml").validate(Accelerator)
    assert f"YAML reads {text} as text, write {meant}" in str(caught.value)


def test_a_key_twice_in_a_nested_mapping() -> None:
    (line,) = problems(replaced(STEP3, ("{gemm: fp8,", "{gemm: fp8, gemm: bf16,")))
    assert re.match(r"bad.yaml:\d+:\d+: precision.gemm: duplicate key, first at line \d+", line)


def test_what_contradicts_itself_is_told_with_both_numbers() -> None:
    (line,) = problems(replaced(STEP3, ("lm_head_tp: 8", "lm_head_tp: 3")))
    assert "lm_head_tp 3 does not divide 8 gpus_per_instance" in line
    (line,) = problems(replaced(STEP3, ("{seed: 0}", "{seed: 0, min_steps: 50, max_steps: 40}")))
    assert "min_steps 50 exceeds max_steps 40" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("- a\n- b\n", "should be a mapping"),
        ("just words\n", "should be a mapping"),
        ("model:\tstep3\n\tname: x\n", "not valid YAML"),
        ("model: step3\n\tname: x\n", "; indent with spaces"),
        ("name: [a\n", "since line 1); close the bracket"),
        ("name: 'a\n", "since line 1); close the quote"),
        ("a: b: c\n", "; check the indentation, or quote a value that holds a colon"),
        ("a:\n   c: 1\n  b: 2\n", "since line 1); indent all keys of a mapping equally"),
        ("name: &x [*x]\n", "nested too deep or refers to itself"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deep"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("a: " + "{x: " * 5000, "nested too deep"),
        ("- " * 5000, "nested too deep"),
        ("\n".join(" " * depth + "a:" for depth in range(1500)), "nested too deep"),
        ("name: *nowhere\n", "; quote a value that begins with *"),
        ("name: !!python/name:os.system\n", "not valid YAML"),
        ("name: !!float x\n", "bad.yaml:1:7: not valid YAML: 'x' is no float"),
        ("name: !!bool maybe\n", "'maybe' is no bool"),
        ("name: \x00\n", "not valid YAML"),
        ("{a: 1}: 2\n", "a key should be plain text"),
        ("1: 2\n", "a key should be text (got 1); quote the key"),
        ("a: {<<: {b: 1}}\n", "a key should be plain text"),
        ("when: !!timestamp 2001-02-30\n", "'2001-02-30' is no timestamp"),
    ],
)
def test_what_is_not_a_yaml_mapping(text: str, said: str) -> None:
    assert any(said in line for line in problems(text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for path in (tmp_path, tmp_path / "latin.yaml", tmp_path / "missing.yaml"):
        with pytest.raises(ScenarioError, match="cannot be read"):
            read(path)


def test_a_card_without_a_source_is_refused_where_it_is_named(tmp_path: Path) -> None:
    text = cards.find(cards.ACCELERATORS, "h800", "accelerator").read_text()
    without = re.sub(r"(hbm_bytes: {value: \d+), source: .*}", r"\1}", text)
    assert without != text
    card = tmp_path / "h800.yaml"
    card.write_text(without)
    wrong = STEP3.replace("accelerator: h800", f"accelerator: {card}", 1)
    (line,) = problems(wrong)
    assert re.match(rf"bad.yaml:\d+:\d+: deployment.attention.accelerator: {card}:\d+:\d+: ", line)
    assert line.endswith("hbm_bytes.source: missing; add this key")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["cannot be read"]),
        ("", [":1: no known trace (got '')"]),
        ("prompt,output\n1,2\n", [":1: no known trace (got 'prompt,output')"]),
        ("prompt_tokens,output_tokens\n", [":2: the file has no rows"]),
        (
            "prompt_tokens,output_tokens\n10,2\n10,-2\n\n10,20\n0,2\n1.5,2\n7\nx,y\n7,²\n",
            [f":{line}: lengths should be whole and positive" for line in (3, 6, 7, 8, 9, 10)]
            + [": 6 bad rows; bad_rows: skip leaves these rows out"],
        ),
    ],
)
def test_wrong_lengths_in_a_csv_are_told_by_line(
    content: str | None, said: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "lengths.csv"
    if content is not None:
        path.write_text(content)
    start = STEP3.index("  lengths:")
    end = STEP3.index("slo:")
    text = f"{STEP3[:start]}  lengths: {{kind: csv, path: {path}}}\n{STEP3[end:]}"
    reported = problems(text)
    assert len(reported) == len(said)
    for line, expected in zip(reported, said, strict=True):
        assert line.startswith("bad.yaml:")
        assert f"workload.lengths.path: {path}{expected}" in line or expected in line


def test_lengths_of_a_csv_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("note,prompt_tokens,output_tokens\na,10,2\nb,30,4\n")
    recorded = CsvLengths(kind="csv", path=str(path)).read()
    assert (recorded.prompt.tolist(), recorded.output.tolist()) == ([10, 30], [2, 4])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SHIPPED)).flatmap(lambda name: mangled(SHIPPED[name])))
def test_mangled_scenarios_are_valid_or_told(text: str) -> None:
    lines = told(lambda: scenario.from_document(parse(text, "mangled.yaml")))
    assert all(line.startswith("mangled.yaml") and "\n" not in line for line in lines)


CARDS = {
    (folder, name): cards.find(folder, name, what).read_text()
    for folder, what in ((cards.ACCELERATORS, "card"), (cards.MODELS, "m"), (cards.FABRICS, "f"))
    for name in cards.names(folder)
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CARDS)), st.data())
def test_mangled_cards_are_valid_or_told(
    tmp_path_factory: pytest.TempPathFactory, which: tuple[str, str], data: st.DataObject
) -> None:
    folder, _name = which
    path = tmp_path_factory.mktemp("cards", numbered=True) / "card.yaml"
    path.write_text(data.draw(mangled(CARDS[which])), encoding="utf-8")
    lines = told(lambda: cards.check(folder, str(path), "card"))
    assert all(line.startswith(str(path)) and "\n" not in line for line in lines)


@settings(max_examples=60, deadline=None)
@given(st.lists(assignments(), min_size=1, max_size=3))
def test_any_assignment_is_valid_or_told(overrides: list[str]) -> None:
    document = parse(STEP3, "s.yaml")

    def load() -> None:
        for assignment in overrides:
            document.set(assignment)
        scenario.from_document(document)

    assert all(line.startswith(("s.yaml:", "--set ")) for line in told(load))


@settings(max_examples=100, deadline=None)
@given(csv_texts())
def test_any_csv_is_read_or_told(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("csv", numbered=True) / "lengths.csv"
    path.write_text(text, encoding="utf-8", newline="")
    lines = told(CsvLengths(kind="csv", path=str(path)).read)
    assert all(line.startswith(f"{path}:") for line in lines)


@pytest.mark.parametrize(
    ("path", "load", "found", "wanted"),
    [
        ("sweeps/afd-ratio.yaml", scenario.load, "a sweep", "a scenario"),
        ("models/step3.yaml", scenario.load, "a model card", "a scenario"),
        ("step3-2a2f.yaml", sweep.load, "a scenario", "a sweep"),
    ],
)
def test_a_file_of_another_kind_is_told_by_its_kind(
    path: str, load: Callable[[Path], object], found: str, wanted: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(cards.packaged("scenarios") / path)
    (problem,) = caught.value.problems
    assert f"kind: this file is {found}" in problem
    assert f"expected {wanted}" in problem


def test_what_a_setting_leaves_out_is_told_of_the_setting() -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("step3-2a2f", ["speculation.drafts=1"])
    assert caught.value.problems == tuple(
        f"--set speculation.drafts: speculation.{key}: missing; add this key"
        for key in ("draft_layer", "acceptance")
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["deployment.gpus=129", "slo.tpot_ms=20"],
            [
                "--set deployment.gpus: deployment: lm_head_tp 8 does not divide 129 gpus",
                "--set deployment.gpus: deployment: 256 experts and copies do not divide over 129",
            ],
        ),
        (
            ["deployment.gpus=144", "deployment.lm_head_tp=10"],
            [
                "--set deployment.gpus, --set deployment.lm_head_tp: deployment: lm_head_tp 10",
                "--set deployment.gpus, --set deployment.lm_head_tp: deployment: 10 GPUs should",
                "--set deployment.gpus, --set deployment.lm_head_tp: deployment: 256 experts and",
            ],
        ),
        (
            [
                "simulation.engine=bound",
                "workload.arrivals={kind: poisson, requests_per_s: 3, requests: 5}",
            ],
            ["--set simulation.engine, --set workload.arrivals: simulation.engine bound knows no"],
        ),
    ],
)
def test_values_that_do_not_go_together_are_told_of_the_settings(
    overrides: list[str], expected: list[str]
) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("dsv3-ep128", overrides, compile_deployment)
    for problem, start in zip(caught.value.problems, expected, strict=True):
        assert problem.startswith(start)


def test_kv_is_stated_in_tokens_or_in_blocks() -> None:
    memory = "memory: {utilisation: 0.9, activation_reserve_gb: 4.0, kv_block_tokens: 64"
    assert memory in STEP3
    both = STEP3.replace(memory, f"{memory}, kv_tokens: 6400, kv_blocks: 100")
    (line,) = problems(both)
    assert "memory: kv_tokens and kv_blocks state the same limit: leave one of them out" in line
    nothing = STEP3.replace(memory, f"{memory}, kv_tokens: 0, max_running_requests: -1")
    assert [line.split(": ")[1] for line in problems(nothing)] == [
        "memory.kv_tokens",
        "memory.max_running_requests",
    ]
