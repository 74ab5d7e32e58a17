"""The experiments of the IVON paper, declared as data and run by one engine."""

from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"
