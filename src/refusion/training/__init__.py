"""Training of a model: the recipe, its stages and the loop that runs them."""
