"""The machinery of a run: processes and signals, messages and gaps, memory, precision, the optimiser."""
