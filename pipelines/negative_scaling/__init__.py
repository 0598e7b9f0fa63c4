"""The collapse study as a pipeline."""
