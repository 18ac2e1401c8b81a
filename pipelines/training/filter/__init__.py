"""The training of match filters: `config`, and what `task` makes of it."""
