"""Readers of what sources consist of: tables, hub data sets, image references, chats, text."""
