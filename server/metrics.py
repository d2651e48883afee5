"""Every metric of a process, in one table; `docs/operations.md` is the same for operators.

Units are in the names; labels have few values, never ids but this process's own.

What the hot path counts is a `Tally`, a plain number: a counter of the library takes a lock for every step.
"""

from collections.abc import Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Tally(Collector):
    """A counter without labels that one thread adds to, the loop's."""

    __slots__ = ("_help", "_name", "_value")

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._help = documentation
        self._value = 0
        REGISTRY.register(self)

    @property
    def value(self) -> int:
        """What has been counted since the process began."""
        return self._value

    def inc(self, amount: int = 1) -> None:
        """Count `amount` more."""
        self._value += amount

    def describe(self) -> Iterable[CounterMetricFamily]:
        """The family without its sample."""
        return [CounterMetricFamily(self._name, self._help)]

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The family as of now."""
        return [CounterMetricFamily(self._name, self._help, value=self._value)]


# -- the process -------------------------------------------------------------------------------------------------------

PROCESS = Gauge(
    "lectern_process",
    "Always 1; `process` is this process's id, as in the table `processes` and in the owner of its sessions.",
    ["process"],
)
READY = Gauge("lectern_ready", "1 when the last /readyz was 200, else 0.")
LOOP_LAG = Histogram(
    "lectern_loop_lag_seconds",
    "How much later than asked for the loop woke us, four times a second: time that something held it.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
PART_UP = Gauge(
    "lectern_part_up",
    "1 when the part (postgres, redis) answered the last look, which is taken once a second, else 0.",
    ["part"],
)
PART_FAILURES = Counter(
    "lectern_part_failures_total",
    "Work that was put off or refused because the part (postgres, redis) did not answer.",
    ["part"],
)
POSTGRES_CONNECTIONS = Gauge(
    "lectern_postgres_connections",
    "Connections of the pool by state (idle, used).",
    ["state"],
)

# -- the HTTP floor ----------------------------------------------------------------------------------------------------

HTTP_REQUESTS = Counter(
    "lectern_http_requests_total",
    "Requests answered, by route and status.",
    ["method", "route", "status"],
)
HTTP_DURATION = Histogram(
    "lectern_http_request_duration_seconds",
    "From the request's head to the answer, sockets left out.",
    ["method", "route"],
    buckets=_REQUEST_S,
)
HTTP_UNFORESEEN = Counter(
    "lectern_http_unforeseen_errors_total",
    "Exceptions that became a 500: each is a bug of ours and is logged.",
    ["route"],
)
SOCKETS = Gauge("lectern_sockets", "Sockets open, by kind.", ["kind"])
SOCKETS_REFUSED = Tally(
    "lectern_sockets_refused_total", "Openings of sockets refused with 503: too many, or too much to do."
)
SOCKET_CLOSES = Counter(
    "lectern_socket_closes_total",
    "Sockets that we closed, by close code; those that players closed are not here.",
    ["code"],
)
SLOW_READERS = Tally("lectern_slow_readers_total", "Sockets cut because their player did not read.")
EVENTS = Counter("lectern_events_total", "Events handed to open pages, by type.", ["type"])
EVENTS_DROPPED = Tally(
    "lectern_events_dropped_total",
    "Events of which nobody was told: too many at once, Postgres away, or a page that did not read.",
)
EVENT_WATCHES = Gauge("lectern_event_watches", "Topics and courses that open pages watch.")

JOBS = Counter(
    "lectern_jobs_total", "Attempts at jobs, by kind and outcome (done, again, failed, dead).", ["kind", "outcome"]
)

SERVICE_STATE = Gauge(
    "lectern_service_state",
    "An outside service's circuit breaker: 0 closed, 1 one call finds out whether it is back, 2 left alone.",
    ["service"],
)
SERVICE_CALLS = Counter(
    "lectern_service_calls_total",
    "Calls to outside services, by outcome (done, refused, put_off, failed, slow, left_alone, given_up).",
    ["service", "operation", "outcome"],
)
SERVICE_SECONDS = Histogram(
    "lectern_service_call_seconds",
    "One call to an outside service, retries one by one.",
    ["service"],
    buckets=_REQUEST_S,
)

UPLOADS = Counter(
    "lectern_uploads_total",
    "Files sent through us (direct), or in parts to the store (begun, then completed, refused, given_up, swept).",
    ["outcome"],
)
FILE_BYTES = Counter(
    "lectern_file_bytes_total", "Bytes of files that passed through us, by direction (in, out).", ["direction"]
)
PICTURES = Counter(
    "lectern_pictures_total",
    "Pictures looked at in a process apart, by outcome (done, refused, failed).",
    ["outcome"],
)

TRANSACTIONS = Counter("lectern_transactions_total", "Payments that came to a status, by status.", ["status"])
PAYMENT_EVENTS = Counter(
    "lectern_payment_events_total",
    "Events of Stripe, by what became of them (done, repeated, dead, refused).",
    ["outcome"],
)

# -- the live core -----------------------------------------------------------------------------------------------------

SESSIONS = Gauge("lectern_sessions", "Video sessions that this process holds.")
FRAMES = Tally("lectern_frames_total", "Telemetry frames applied, replayed ones left out.")
CMCD_FRAMES = Tally("lectern_cmcd_frames_total", "Frames that players told as CMCD, duplicates among them.")
ACKS = Tally("lectern_acks_total", "Acknowledgements handed to sockets.")
DUPLICATES = Tally("lectern_duplicates_total", "Telemetry frames refused as had before or late.")
GAPS = Tally("lectern_gaps_total", "Telemetry frames that never came: holes that were applied over.")
DECISIONS = Counter("lectern_decisions_total", "Quality decisions that changed, by reason.", ["reason"])
DEAD_LETTERS = Tally("lectern_dead_letters_total", "Entries that could not be applied and rows that Postgres refused.")
STREAM_LAG = Gauge("lectern_stream_lag_frames", "Frames accepted and not applied yet, looked at once a second.")
UNSAVED = Gauge("lectern_unsaved_frames", "Frames that Postgres does not know yet, looked at once a second.")
INGEST_SECONDS = Histogram(
    "lectern_ingest_round_seconds",
    "One round trip to Redis that writes and reads a batch of sessions.",
    buckets=(0.00025, 0.0005, *_REQUEST_S),
)
FENCED = Tally("lectern_fenced_total", "Sessions dropped because somebody else claimed them.")
FENCED_WRITES = Tally("lectern_fenced_writes_total", "Checkpoints of sessions that Postgres refused under their epoch.")
CHECKPOINT_ROWS = Tally("lectern_checkpoint_rows_total", "Sessions saved.")
CHECKPOINT_FIGURES = Tally("lectern_checkpoint_figures_total", "Sessions whose part in video figures was saved.")
CHECKPOINT_BYTES = Tally("lectern_checkpoint_bytes_total", "Bytes of session state saved, as JSON.")
CHECKPOINT_SECONDS = Histogram("lectern_checkpoint_seconds", "One statement of up to 128 sessions.", buckets=_REQUEST_S)
REPLAY_SECONDS = Histogram("lectern_replay_seconds", "Reading and applying one session's stream.", buckets=_REQUEST_S)
REPLAYED = Tally("lectern_replayed_frames_total", "Telemetry frames applied when a session was claimed.")
STREAMS_LOST = Tally("lectern_streams_lost_total", "Streams of which Redis had lost entries, begun anew.")
REAPED = Tally("lectern_reaped_total", "Sessions finished for want of a living owner or of a player.")

# -- conversations -----------------------------------------------------------------------------------------------------

CHAT_RUNNING = Gauge("lectern_chat_running", "Turns that this process is answering.")
CHAT_TURNS = Counter(
    "lectern_chat_turns_total",
    "Turns that ended, by outcome (done, stopped, or why they failed: interrupted, model_failed, ...).",
    ["outcome"],
)
CHAT_ANSWERS = Counter(
    "lectern_chat_answers_total",
    "Whole answers by what gave them: a model, or the material's own words (transcript).",
    ["source"],
)
CHAT_REFUSED = Counter(
    "lectern_chat_refused_total",
    "Messages that became no turn, by reason (busy, budget_spent, rate_limited, refused).",
    ["reason"],
)
CHAT_TOKENS = Counter("lectern_chat_tokens_total", "Tokens that answers took, as the model counts them or about.")
CHAT_FIRST_WORD = Histogram(
    "lectern_chat_first_word_seconds",
    "From asking the model to the first word of its answer.",
    buckets=(0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0),
)
