"""Several agents together: parallel, chain and compare the same for every interface."""
