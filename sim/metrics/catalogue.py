"""Catalogue: the figures of a run, each declared once: unit, better direction, definition."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    name: str
    unit: str
    better: Literal["max", "min", ""]
    definition: str


METRICS = (
    Metric("gpus", "GPU", "", "all GPUs of the deployment, also idle GPUs"),
    Metric("requests_in_flight", "requests", "", "mean requests decoding at a time"),
    Metric(
        "tpot_ms_mean", "ms", "min", "mean over requests of (last − first token)/(tokens − 1), wall"
    ),
    Metric("tpot_ms_p50", "ms", "min", "median of the requests' TPOT"),
    Metric("tpot_ms_requests_p90", "ms", "min", "90th percentile of the requests' TPOT"),
    Metric("tpot_ms_p99", "ms", "min", "99th percentile of the requests' TPOT"),
    Metric("tpot_ms_p99_low", "ms", "min", "lower end of the 95 % interval of tpot_ms_p99"),
    Metric("tpot_ms_p99_high", "ms", "min", "upper end of the 95 % interval of tpot_ms_p99"),
    Metric("tpot_ci95_ms", "ms", "min", "chance: 95 % half-width of the mean gap"),
    Metric("tpot_ms_p10", "ms", "min", "doubt: lower end of the 80 % prediction interval of TPOT"),
    Metric("tpot_ms_p90", "ms", "min", "doubt: upper end of the 80 % prediction interval of TPOT"),
    Metric(
        "tpot_device_ms",
        "ms",
        "min",
        "device time: tpot_ms_mean less the host's time between steps",
    ),
    Metric("itl_ms_p50", "ms", "min", "median gap between tokens"),
    Metric("itl_ms_p99", "ms", "min", "99th percentile of the gaps between tokens"),
    Metric("queue_ms_mean", "ms", "min", "mean wait from arrival to admission"),
    Metric("queue_ms_p99", "ms", "min", "99th percentile of the wait from arrival to admission"),
    Metric("tgs", "tokens/s/GPU", "max", "output tokens per second over all GPUs"),
    Metric("tgs_ci95", "tokens/s/GPU", "min", "chance: 95 % half-width of tgs"),
    Metric("tgs_p10", "tokens/s/GPU", "max", "doubt: lower end of the 80 % prediction interval"),
    Metric("tgs_p90", "tokens/s/GPU", "max", "doubt: upper end of the 80 % prediction interval"),
    Metric("stable", "", "", "whether an open loop keeps up with its requests"),
    Metric("slo_attainment", "share", "max", "requests that met the targets of TPOT and queueing"),
    Metric(
        "goodput_requests_per_s",
        "requests/s",
        "max",
        "requests per second that met their targets, by the tokens measured",
    ),
    Metric(
        "goodput_tgs",
        "tokens/s/GPU",
        "max",
        "output tokens/s of requests that met their targets, over all GPUs",
    ),
    Metric("tokens_per_s_per_user", "tokens/s", "max", "1 / mean TPOT"),
    Metric("usd_per_1m_tokens", "USD", "min", "rent of all cards per million output tokens"),
    Metric("t_a_layer_us", "µs", "min", "attention of a layer and micro-batch, slowest GPU"),
    Metric("t_f_layer_us", "µs", "min", "FFN of a layer and micro-batch, with its collectives"),
    Metric("t_a2f_layer_us", "µs", "min", "way to the FFN: A→F transfer, or EP dispatch"),
    Metric("t_f2a_layer_us", "µs", "min", "way back: F→A transfer, or EP combine"),
    Metric("t_step_ms", "ms", "min", "mean time from step boundary to step boundary"),
    Metric("kv_occupancy", "share", "", "mean share of the KV capacity in use"),
    Metric("calibrated_share", "share", "max", "kernel time inside measured ranges"),
    Metric("extrapolated_share", "share", "min", "kernel time outside the measured range"),
    Metric("uncalibrated_share", "share", "min", "kernel time from the card's default efficiency"),
    Metric("measured_steps", "steps", "", "decode steps of each micro-batch after the warm-up"),
    Metric(
        "replications", "runs", "", "runs, each with its own seed, that the figures are means of"
    ),
)
