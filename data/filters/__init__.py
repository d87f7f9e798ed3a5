"""Filters of prepared records: rules on single records, and decontamination."""
