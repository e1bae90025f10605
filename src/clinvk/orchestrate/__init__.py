"""Several agents together: parallel, chain and compare over `Runs`, the same for every surface."""
