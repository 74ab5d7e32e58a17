"""Calibration beyond the paper's tables: temperature scaling as one more reference, and a reliability diagram
of every method of Table 2.
"""
