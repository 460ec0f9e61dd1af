"""Where a run trains: its devices, and the processes that load its patches."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from moma_core.data.augment.recipe import ViewRecipe
from moma_core.data.sampler import BatchSettings
from moma_core.training.settings import TrainingSettings

_MOST_WORKERS = 16


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Returns the devices that the settings name; not yet launched."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    several = settings.devices > 1
    # The bank is a buffer of 32 MB that every rank fills alike: not to be broadcast.
    strategy = DDPStrategy(start_method="spawn", forward_sync_buffers=False)
    return Fabric(
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,
        strategy=strategy if several else "auto",
    )


def leave_ranks() -> None:
    """Ends this process's connection to the other ranks, once its work is done.

    The end of the interpreter must not find the connection's threads: now and then
    they abort the process there, which counts as a failed rank.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def loading_workers(settings: TrainingSettings) -> int:
    """Returns how many processes load patches for one rank.

    A core renders some 300 views of 224 px a second and a GPU trains thousands, so it
    gets all cores but one. A CPU that trains needs its cores itself.
    """
    if settings.workers != "auto":
        return settings.workers
    uses_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    if not uses_gpu:
        return 0
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores - 1, _MOST_WORKERS * settings.devices) // settings.devices)


def batch_settings(
    fabric: Fabric, settings: TrainingSettings, recipe: ViewRecipe, view_size_px: int
) -> BatchSettings:
    """Returns how this rank's batches are made."""
    return BatchSettings(
        batch_size=settings.batch_size,
        labelled_share=settings.labelled_share,
        seed=settings.seed,
        recipe=recipe,
        view_size_px=view_size_px,
        balanced=settings.balance == "sampler",
        workers=loading_workers(settings),
        prefetch=settings.prefetch_batches,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
