"""Exhibits of experiments: tables, figures and verdicts as data, and how they are shown."""
