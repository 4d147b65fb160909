"""Exporters: from a network to the file that an engine runs.

`exporters.calibration` measures ranges once; `exporters.qdq` writes them as Q/DQ nodes for one target.
"""
