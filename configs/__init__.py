"""Experiments as ml_collections ConfigDicts: plain values, no code of the project."""
