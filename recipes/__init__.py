"""One folder per task: dataset.py for the data engineer, model.py for the ML engineer."""
