"""Harness: one picture from a file to a cell of the report.

recipe -> plan -> data -> preprocess -> run -> store -> estimate -> report
"""
