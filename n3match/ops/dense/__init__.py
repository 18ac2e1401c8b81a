"""The dense form: every query against all items of the database."""
