"""Snakemake, asking SLURM for the state of its jobs every second.

The executor waits ten seconds longer after every look at which no job had ended; a test of a minute would wait for
most of it. Arguments are those of snakemake.
"""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def sleep(executor):
    """Wait between two looks."""
    await asyncio.sleep(1)


RemoteExecutor.sleep = sleep

if __name__ == "__main__":
    sys.exit(main())
