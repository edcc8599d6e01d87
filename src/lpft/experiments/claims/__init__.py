"""The paper's eight claims, one file each: what is compared, and the verdicts on it."""
