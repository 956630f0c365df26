"""Draw plain values: pictures, plots, HTML pages, text tables, the volume viewer, progress bars.

Nothing here knows a store, a study or Optuna. Every page is one self-contained HTML document, which
works from a disk and in MLflow's sandbox, where nothing can be loaded.
"""
