"""The commands: `cli` lists them, a module each, and what they share."""
