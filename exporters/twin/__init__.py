"""Twins: an ONNX classifier as a differentiable module of torch, for attacks that need gradients.

An engine has none. Its twin computes what the file says, operator by operator, in float; where the file rounds, the
gradient passes straight through (`exporters.twin.straight_through`). How far that is from what the engine says is
measured (`exporters.twin.gate`) and never taken for granted.
"""
