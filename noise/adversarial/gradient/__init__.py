"""Attacks that follow the gradients of a differentiable model. Each file is one attack.

They need torch, so nothing but their rows in `noise.adversarial.ATTACKS` leads here.
"""
