"""Small graphs of every topology, as text and built with onnx-graphsurgeon; weights are drawn from a seed."""
