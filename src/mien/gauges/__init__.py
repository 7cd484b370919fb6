"""Gauges: what is read off an answer in sigma of quiet traffic, and when that is an alarm.

Nothing here knows models, logs or how a direction was made.
"""

from __future__ import annotations

from mien.gauges.alarms import Limits, cusum, left_at
from mien.gauges.baseline import Baseline, Quiet, Standard, fit_baseline, fit_baselines, fit_standard
from mien.gauges.files import bundled_gauges, load_gauges, save_gauges
from mien.gauges.gauge import Gauge, GaugeSet, Part
from mien.gauges.texture import texture

__all__ = [
    "Baseline",
    "Gauge",
    "GaugeSet",
    "Limits",
    "Part",
    "Quiet",
    "Standard",
    "bundled_gauges",
    "cusum",
    "fit_baseline",
    "fit_baselines",
    "fit_standard",
    "left_at",
    "load_gauges",
    "save_gauges",
    "texture",
]
