"""TensorRT, from 8.6 to 11: what it takes, how a plan is built and loaded, and which of its layers are integers.

The folder is not named after the package that it wraps. Three modules need no TensorRT and run everywhere:
`engines.trt.lint` (is a Q/DQ file fit for it?), `engines.trt.record` (the sidecar of a plan) and
`engines.trt.certificate` (the engine inspector's JSON). `engines.trt.library` is the one door to the package and the
one place that knows versions; `engines.trt.build` makes a plan and `engines.trt.plan` loads one.
"""
