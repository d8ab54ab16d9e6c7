"""From records to results: dataset, metrics, figures, report. Opens no connection."""
