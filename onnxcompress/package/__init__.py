"""What an engine or a hub wants to be given: folders of models with the files that belong to them."""
