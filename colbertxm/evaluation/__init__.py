"""Evaluation: runs and judgements on disk, metrics, tests of significance, result rows, tables and pictures.

Takes runs (lists of `Hit`) and judgements, whatever made them; knows neither the model nor Lightning.
"""
