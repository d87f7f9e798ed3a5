"""Readers that the sources share.

tables       rows of parquet, JSON, JSONL, CSV and TSV files
hub          rows of a Hugging Face data set, local or downloaded
image_refs   image bytes from whatever a cell holds: bytes, path, base64, data URI
text         image marks, lists of choices, gold answers
chat         OpenAI and ShareGPT chats
source_rows  the row -> Sample loop, with one `Dropped` per row that fails
generic      any table, given a map of its columns
"""
