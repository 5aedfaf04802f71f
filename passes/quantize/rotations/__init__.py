"""Rotations of the residual stream: orthogonal matrices, where they cancel, and what they are folded into."""
