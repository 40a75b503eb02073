"""One module a model, named like the model in lower case (RecBole's rule)."""
