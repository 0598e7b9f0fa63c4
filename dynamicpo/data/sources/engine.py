"""DuckDB, with every guess switched off that could change what a file says."""

from pathlib import Path

import ibis


def open_engine(spill: Path | None = None) -> ibis.BaseBackend:
    """Connect to an empty database in memory.

    Args:
        spill: The folder for what does not fit into memory; by default the current folder.
    """
    settings: dict[str, str | bool] = {
        # It would load code from the network when a file seems to need it.
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        # Row numbers in messages are those of the file.
        "preserve_insertion_order": True,
    }
    if spill is not None:
        settings["temp_directory"] = str(spill)
    connection = ibis.duckdb.connect(**settings)
    connection.con.execute("SET enable_progress_bar = false")
    return connection
