"""Where a network comes from: one file for each row of `exporters.MODELS`, each with a function ``load``.

Only the registry imports these files, for they need PyTorch.
"""
