"""Graphs of cells and of genes, levels of regions, and tiles to compute them in: arrays only."""
