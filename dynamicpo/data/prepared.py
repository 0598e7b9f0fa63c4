"""Examples with their catalogue, before they are written."""

from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from dynamicpo.data.quality.events import EventQuality

# Steps of progress until the data are prepared: files read, interactions filtered, histories built.
PREPARATION_STEPS = 3


class PreparedData(NamedTuple):
    """Examples of one source.

    Attributes:
        catalogue: The items: `item_id`, `title`, `popularity`, `category`.
        splits: The examples of each split.
        counts: Numbers of what was read, dropped and changed.
        notes: What was read in another way than it is written, as sentences.
        events: Measures of the interactions that were read; None for rows that come with histories.
    """

    catalogue: pd.DataFrame
    splits: dict[str, pa.Table]
    counts: dict[str, int]
    notes: tuple[str, ...] = ()
    events: EventQuality | None = None
