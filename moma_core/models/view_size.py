"""Whether an encoder takes views of the size that a config gives it."""

import torch

from moma_core.errors import ConfigError, first_line
from moma_core.models.encoder import Encoder


def check_takes_views(encoder: Encoder, view_size_px: int, section: str) -> None:
    """Refuses an encoder that takes no views of this size, before it is to train.

    Args:
        encoder: In training mode, and left in it.
        view_size_px: Side of the views.
        section: Of the config that names the architecture, for the message.

    Raises:
        ConfigError: It does not.
    """
    views = torch.zeros(1, 3, view_size_px, view_size_px)
    encoder.eval()
    try:
        with torch.no_grad():
            encoder(views)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{section}.architecture {encoder.architecture!r} takes no views of "
            f"{view_size_px} px: {first_line(error)}; change view_size_px or the "
            f"architecture"
        ) from error
    encoder.train()
