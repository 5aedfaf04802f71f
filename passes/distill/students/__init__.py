"""Who learns from whom: other models in the place of the one that is trained, or of its teacher."""
