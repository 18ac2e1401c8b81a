"""What commands share: results that go on, fingerprints, tables, arguments, processes."""
