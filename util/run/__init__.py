"""The machinery of a run: processes, threads and signals; logs and gaps; memory, precision and the optimiser."""
