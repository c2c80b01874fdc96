"""The report of a fit and of what pruning did: plain numbers first, tables, pages and cards after."""

from layershap.environment import Environment
from layershap.report.card import model_card
from layershap.report.measure import measure_outcome
from layershap.report.outcome import ExampleRecord, GenerationRecord, ModelRecord, PruningOutcome
from layershap.report.records import (
    CalibrationRecord,
    CostRecord,
    FitRecord,
    LayerRecord,
    RemovalRecord,
    SurrogateRecord,
)
from layershap.report.report import PruningReport
from layershap.speed import SpeedRecord, measure_speed
from layershap.tables import Table

__all__ = [
    "CalibrationRecord",
    "CostRecord",
    "Environment",
    "ExampleRecord",
    "FitRecord",
    "GenerationRecord",
    "LayerRecord",
    "ModelRecord",
    "PruningOutcome",
    "PruningReport",
    "RemovalRecord",
    "SpeedRecord",
    "SurrogateRecord",
    "Table",
    "measure_outcome",
    "measure_speed",
    "model_card",
]
