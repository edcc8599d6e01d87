"""Methods compared on the same seeds and samples: one rule for reports, tables and claims."""
