"""Pipeline runs: start them on this machine, follow them, list them; compile pipelines for a cluster."""
