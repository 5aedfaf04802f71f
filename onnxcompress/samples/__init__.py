"""Where a model's inputs come from: files, folders, functions, arrays, random values."""
