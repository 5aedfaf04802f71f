"""Reading and changing a model: load, save, edit, shapes, cost, verify, surgeon."""
