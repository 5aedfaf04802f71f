"""Reading and changing a model: load, save, edit, shapes, layers, and the table of facts about operators."""
