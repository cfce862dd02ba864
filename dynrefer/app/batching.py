"""Requests of many clients through one model: what arrives together shares its batches."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from dynrefer.app.memory import release_memory
from dynrefer.predictor import ImageResult, PredictionOptions, RegionPredictor, RegionRequest

logger = logging.getLogger(__name__)
IDLE = 1.0  # seconds without a request, after which memory is given back


@dataclass(frozen=True)
class _Job:
    request: RegionRequest
    options: PredictionOptions
    answer: "Future[ImageResult]" = field(default_factory=Future)


class MicroBatcher:
    """One thread that runs a predictor on requests, those that wait together at once.

    Used as a context manager: at its end all requests that were submitted are answered.

    Args:
        predictor: runs in this thread alone.
        wait: seconds that a request waits for others after the model is free.
        most: requests that are taken at once; 1 for none together.
        observe: is told how many were taken, every time.
    """

    def __init__(
        self,
        predictor: RegionPredictor,
        wait: float = 0.005,
        most: int = 64,
        observe: Callable[[int], None] = lambda count: None,
    ) -> None:
        if wait < 0 or most < 1:
            raise ValueError(f"wait is {wait}, most is {most}; valid are 0 and 1 or more")
        self.predictor, self.wait, self.most, self.observe = predictor, wait, most, observe
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def __enter__(self) -> "MicroBatcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._closing:
            self._is_closed = True
            self._jobs.put(None)
        self._thread.join()

    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._is_closed

    def submit(self, request: RegionRequest, options: PredictionOptions) -> "Future[ImageResult]":
        """Takes a request; its result comes when it is ready. RuntimeError after the end."""
        job = _Job(request, options)
        with self._closing:
            if self._is_closed:
                raise RuntimeError("the service ends")
            self._jobs.put(job)
        return job.answer

    def _run(self) -> None:
        is_last = False
        while not is_last:
            jobs: list[_Job] = []
            for job in self._taken():
                is_last = job is None
                if job is not None and job.answer.set_running_or_notify_cancel():
                    jobs.append(job)
            if jobs:
                self.observe(len(jobs))
            groups: dict[PredictionOptions, list[_Job]] = {}
            for job in jobs:
                groups.setdefault(job.options, []).append(job)
            for group in groups.values():
                self._answer(group)

    def _taken(self) -> Iterator[_Job | None]:
        """The next job, and those that come while it waits; None, the last of all, ends it."""
        job = self._first()
        until = time.monotonic() + self.wait
        yield job
        for _ in range(self.most - 1):
            if job is None:
                return
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            yield job

    def _first(self) -> _Job | None:
        try:
            return self._jobs.get(timeout=IDLE)
        except queue.Empty:
            release_memory()
            return self._jobs.get()

    def _answer(self, jobs: list[_Job]) -> None:
        """Answers jobs of equal options; what fails together is tried one by one."""
        left = list(jobs)
        try:
            requests = [job.request for job in jobs]
            for result in self.predictor.predict_many(requests, **vars(jobs[0].options)):
                left.pop(0).answer.set_result(result)
            if left:
                raise RuntimeError(f"no result for {len(left)} of {len(jobs)} requests")
        except Exception as error:  # whatever it is, it shall not end the thread
            logger.exception("the model failed on %d of %d requests", len(left), len(jobs))
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in left:
                self._answer([job])
