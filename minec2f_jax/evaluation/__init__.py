"""Evaluation: one pooled confusion matrix, tables and figures."""
