"""The group engine: which positions of which tensors must be pruned together, and how to remove them.

Every axis of every tensor carries *labels*. A label is what can be removed: one output channel of a convolution and
everything that hangs on it. Position p of an axis goes when any of its labels goes, so an axis is a sum (positions)
of products (the labels of one position) of atoms (labels that always appear together):

    W: Conv weight (64, 3, 3, 3)        axis 0 carries labels c0 … c63
    x = Conv(image, W)                  axis 1 carries the same labels
    y = Flatten(x)        (N, 64·8·8)   position p carries c[p // 64]
    q = Reshape(MatMul(x, Wq), heads)   d becomes {head, e}: two labels at each position of d, everywhere at once

`analysis` visits each node, `rules` has one small rule for each operator that computes, `movement` one for all that
move data (run the operator on coordinates), and `engine` keeps what they say in `labels` (union-find and factoring).
`groups` gathers the labels; `propagate`, `bounds` and `dead` find what contributes nothing, and `remove` takes it out.
"""
