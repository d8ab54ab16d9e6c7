"""Scripts sent to a host as source and run there with its Python: standard library only."""
