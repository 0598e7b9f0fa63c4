"""Many transfers through stores that often fail: `python -m tests.benchmarks.storage_faults 1000`.

`make test` has 200 of them.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from dynamicpo.core.storage import retries
from tests.fixtures import object_stores
from tests.fixtures.fault_proxy import FaultProxy
from tests.fixtures.faulty_transfers import SHARE, run


def main(argv: Sequence[str] | None = None) -> None:
    """Run a third of the transfers in each store, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transfers", type=int)
    number = parser.parse_args(argv).transfers
    # Waits between tries are not what is tested.
    retries.FIRST_WAIT_SECONDS, retries.LONGEST_WAIT_SECONDS = 0.01, 0.05
    servers = {
        "gs": object_stores.fake_gcs,
        "s3": object_stores.moto,
        "minio": object_stores.seaweedfs,
    }
    for place, (scheme, server) in enumerate(servers.items()):
        share = number // 3 + (place < number % 3)
        with ExitStack() as stack:
            proxy = stack.enter_context(FaultProxy(stack.enter_context(server()), SHARE, seed=7))
            os.environ.update(object_stores.environment(scheme, proxy.url))
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            outcome = run(f"{scheme}://bucket/faults", proxy, share, scratch)
        print(
            f"{scheme}: {outcome.whole} of {outcome.transfers} transfers whole, "
            f"{sum(outcome.faults.values())} faults in {len(proxy.requests)} requests: "
            f"{outcome.faults}",
            flush=True,
        )
        assert outcome.whole == outcome.transfers


if __name__ == "__main__":
    main()
