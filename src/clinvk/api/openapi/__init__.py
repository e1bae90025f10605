"""The table of endpoints, and the OpenAPI document and the docs page derived from the table."""
