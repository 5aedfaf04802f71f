"""What runs in the training interpreter: the loop over the samples, a file for each of its concerns.

Imports nothing but numpy, onnxruntime and the standard library. The optimizer is a dozen lines of numpy on one flat
vector, so that all there is to remember between two epochs fits in one plain ``.npz`` file.
"""
