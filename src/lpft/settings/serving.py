"""Settings of ``lpft serve``: where it listens, how it batches, and its limits."""

from lpft.settings.fields import Decides, Settings, setting


class ServingSettings(Settings):
    """Where the service listens, and the limits that keep one client from starving the others."""

    heading = "the service"
    commands = ("serve",)
    decides = Decides.NOTHING

    host: str = setting(
        "127.0.0.1",
        "address to listen on; 0.0.0.0 is every address of this machine, without authentication",
    )
    port: int = setting(8000, "port to listen on; 0 takes a free one", ge=0, le=65535)
    batch_texts: int = setting(64, "texts of concurrent requests that are computed together", ge=1)
    batch_wait: float = setting(
        2.0,
        "milliseconds that a request waits for others to be computed with, while the model is idle",
        ge=0,
        le=1000,
    )
    max_texts: int = setting(256, "texts per request", ge=1)
    max_characters: int = setting(100_000, "characters per text", ge=1)
    max_bytes: int = setting(10_000_000, "bytes of a request's body", ge=1)
    max_queue: int = setting(
        2048, "texts that wait for the model; a request beyond them is answered with 503", ge=1
    )
