"""Parquet files: columns by their exact names, with text that is the value and nothing else.

DuckDB knows names without regard to case, so columns are taken by their positions.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.parts import Part
from dynamicpo.data.sources.sql import literal


def parquet_names(part: Part) -> list[str]:
    """The names of the columns, in order.

    Raises:
        DataError: The file is no whole Parquet file.
    """
    try:
        schema = pq.read_schema(part.path)
    except (pa.ArrowException, OSError, ValueError) as error:
        # Its messages may hold bytes of the file.
        words = str(error).split()
        reason = " ".join(words)[:120].rstrip(".")
        escaped = ascii(reason)[1:-1]
        raise DataError(
            f"{part.path}: must be whole and well-formed Parquet, but {escaped}. "
            "Copy or export it again."
        ) from error
    return list(schema.names)


def parquet_relation(part: Part, num_columns: int) -> str:
    """A relation of all columns, `c0, c1, ...`, and the number of the `row`."""
    names = ", ".join(f"c{number}" for number in range(num_columns))
    return (
        f"(SELECT row_number() OVER () AS row, * FROM read_parquet({literal(part.path)}, "
        f"hive_partitioning = false) AS t({names}))"
    )
