"""The starter model: a small GPT-2 trained from scratch on the Python standard library's own source."""
