"""What commands share: files written whole, logs of progress, tables, processes."""
