"""Dead channels that stay because the model is faster with them."""
