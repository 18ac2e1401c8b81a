"""The training of denoisers: `config`, and what `task` makes of it."""
