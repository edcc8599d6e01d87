"""Methods compared on the same seeds and samples: what claims and tables of differences share."""
