"""What all commands share: where they write, and the services that they open."""

from typing import TYPE_CHECKING

from rich.console import Console

from kilowatch.config import Settings, prepare_data_dir

if TYPE_CHECKING:
    from kilowatch.services import Kilowatch

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def opened(settings: Settings, *, with_history: bool = True) -> "Kilowatch":
    from kilowatch.kit.logs import configure_logging
    from kilowatch.services import Kilowatch, refuse_history_in_use

    configure_logging(settings)
    prepare_data_dir(settings)
    if with_history:
        refuse_history_in_use(settings)
    return Kilowatch(settings, with_history=with_history)
