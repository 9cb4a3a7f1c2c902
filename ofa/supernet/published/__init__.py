"""Readers of weights that others published for their supernets."""
