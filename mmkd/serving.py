"""A model behind HTTP, on Ray Serve: `serve run mmkd.serving:app model=RUN`.

    curl --data-binary @clip.mp4 'http://127.0.0.1:8000/?window=2&hop=1'

answers with what `python -m mmkd predict --json` says of each clip. Clips of requests that come at about the same time
are answered together; `together` says how many were, at most. RUN is a model folder or a run folder, by its path or its
name; `key=value` after it are the fields of :class:`Options`. Needs pip install 'mmkd[serve]'.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

from mmkd.config import Settings
from mmkd.config.changes import explain
from mmkd.devices import device_of
from mmkd.inference.answers import Prediction, answers, open_model
from mmkd.inference.sampling import sampling_of
from mmkd.inference.windows import Window, check_windows, video_windows
from mmkd.models import find_model

MOST_VIEWS = 100
"""Of a clip; each is held until it is answered."""
Answered = tuple[Prediction, int]
"""What is said of a clip, and how many were answered at once with it."""
Positive = Annotated[int, Field(gt=0)]


class Options(BaseModel):
    """How a model is served."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    model: str
    """Model folder or run folder; relative ones are under HOME/models or HOME/runs."""
    replicas: Positive = 1
    num_cpus: Annotated[float, Field(gt=0)] = 1.0
    """That each replica reserves."""
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    threads: Positive = 1
    """That a replica computes on."""
    batch: Positive = 8
    """Clips that are answered together, at most."""
    wait: Annotated[float, Field(ge=0)] = 0.01
    """Seconds that a clip waits for others."""
    requests: Positive = 32
    """That a replica takes at once; the others wait."""
    max_mb: Positive = 1024
    """Of a video; larger ones are refused."""


def app(arguments: dict[str, Any]) -> Any:
    """The application, for `serve run` and Serve's config files.

    Raises:
        ValueError: an option cannot be, or there is no such model.
    """
    try:
        options = Options.model_validate(arguments)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    home = Settings().home
    folder = find_model(options.model, (home / "models", home / "runs"))
    service: Any = Service
    placed = service.options(
        num_replicas=options.replicas,
        max_ongoing_requests=options.requests,
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
    )
    return placed.bind(str(folder), options)


@serve.deployment
class Service:
    """One copy of the model: takes videos, and answers their clips in batches."""

    def __init__(self, folder: str, options: Options):
        import torch

        torch.set_num_threads(options.threads)
        self.model = open_model(folder, device_of(options.num_gpus))
        self.chosen = options
        sampling_of(self.model.spec, name=folder)
        self.room = asyncio.Semaphore(4 * options.batch)  # of clips that are decoded and not answered
        batching: Any = self._said
        batching.set_max_batch_size(options.batch)
        batching.set_batch_wait_timeout_s(options.wait)

    async def __call__(self, request: Request) -> JSONResponse:
        """Body: a video; query: views, window, hop, top, as of `python -m mmkd predict`."""
        most = self.chosen.max_mb << 20
        with tempfile.NamedTemporaryFile(prefix="mmkd-") as file:
            async for piece in request.stream():
                file.write(piece)
                if file.tell() > most:
                    return JSONResponse({"error": f"the video has more than {self.chosen.max_mb} MB"}, 413)
            file.flush()
            try:
                asked = request.query_params
                window, hop = float(asked.get("window", 0)), float(asked.get("hop", 0))
                top, sampling = int(asked.get("top", 5)), sampling_of(self.model.spec, asked.get("views", "1x1"))
                check_windows(window, hop)
                if top < 1 or sampling.grid[0] * sampling.grid[1] > MOST_VIEWS:
                    raise ValueError(f"top must be 1 or more, and views {MOST_VIEWS} at most")
                said = await self._answered(video_windows(file.name, sampling, window, hop))
            except (ValueError, OSError) as error:
                return JSONResponse({"error": str(error).replace(Path(file.name).name, "the video")}, 422)
        facts = {"model": self.chosen.model, "temperatures": self.model.spec.temperatures}
        together = max((together for _, together in said), default=0)
        return JSONResponse({**facts, "together": together, "clips": [_shown(each, top) for each, _ in said]})

    async def _answered(self, windows: Iterator[Window]) -> list[Answered]:
        """All clips of a video, in order; few of them are held at a time."""
        said: list[asyncio.Task[Answered] | Answered] = []
        # Decoding is left to a thread, one clip at a time, so that others are served meanwhile.
        while (window := await asyncio.to_thread(next, windows, None)) is not None:
            if window.rgb is None:
                said.append((Prediction(self.model.spec, window.start, window.stop, error=window.error), 0))
                continue
            await self.room.acquire()
            task = asyncio.create_task(self._said(window))
            task.add_done_callback(lambda _: self.room.release())
            said.append(task)
        return [await each if isinstance(each, asyncio.Task) else each for each in said]

    @serve.batch
    async def _said(self, windows: list[Window]) -> list[Answered]:
        return await asyncio.to_thread(self._answer, windows)

    def _answer(self, windows: list[Window]) -> list[Answered]:
        """Of clips that may have different numbers of views."""
        said: dict[int, Prediction] = {}
        for views in {len(window.rgb) for window in windows if window.rgb is not None}:
            mine = [n for n, window in enumerate(windows) if window.rgb is not None and len(window.rgb) == views]
            rgb = np.stack([rgb for n in mine if (rgb := windows[n].rgb) is not None])
            found = answers(self.model, rgb, [(windows[n].start, windows[n].stop) for n in mine])
            said |= dict(zip(mine, found, strict=True))
        return [(said[n], len(windows)) for n in range(len(windows))]


def _shown(said: Prediction, top: int) -> dict[str, Any]:
    times = {"start": round(said.start, 3), "stop": round(said.stop, 3)}
    return times | ({"error": said.error} if said.error else {"top": said.top(top)})
