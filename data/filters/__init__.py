"""Filters of prepared records: rules on single records, duplicates, and decontamination."""
