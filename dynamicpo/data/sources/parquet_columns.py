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
        return list(pq.read_schema(part.path).names)
    except (pa.ArrowException, OSError, ValueError) as error:
        # Its messages may hold bytes of the file.
        reason = " ".join(str(error).split())[:120].rstrip(".")
        raise DataError(
            f"{part.path}: must be whole and well-formed Parquet, but {ascii(reason)[1:-1]}. "
            "Copy or export it again."
        ) from error


def parquet_relation(part: Part, num_columns: int) -> str:
    """A relation of all columns, `c0, c1, ...`, and the number of the `row`."""
    names = ", ".join(f"c{number}" for number in range(num_columns))
    return (
        f"(SELECT row_number() OVER () AS row, * FROM read_parquet({literal(part.path)}, "
        f"hive_partitioning = false) AS t({names}))"
    )
