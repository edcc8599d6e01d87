"""The report's part on kernels: statistics, spectra, heat maps, regression, alignment."""
