"""The experiments of docs/experiments.md: their runs, the bars that they are held to, tables, plots, and the document.

python -m scripts.experiments --help
"""
