"""Every metric of a process, in one table. Units are in the names; labels have few values, never ids."""

from prometheus_client import Counter, Gauge, Histogram

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

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
POSTGRES_CONNECTIONS = Gauge(
    "lectern_postgres_connections",
    "Connections of the pool by state (idle, used).",
    ["state"],
)
READY = Gauge("lectern_ready", "1 when the last /readyz was 200, else 0.")

# -- the live core -----------------------------------------------------------------------------------------------------

SESSIONS = Gauge("lectern_sessions", "Video sessions that this process holds.")
SOCKETS = Gauge("lectern_sockets", "Sockets open.", ["kind"])
SLOW_READERS = Counter("lectern_slow_readers_total", "Sockets cut because their player did not read.")
FRAMES = Counter("lectern_frames_total", "Telemetry frames applied.")
DUPLICATES = Counter("lectern_duplicates_total", "Telemetry frames refused as had before or late.")
DECISIONS = Counter("lectern_decisions_total", "Quality decisions that changed, by reason.", ["reason"])
DEAD_LETTERS = Counter(
    "lectern_dead_letters_total", "Entries that could not be applied and rows that Postgres refused."
)
FENCED = Counter("lectern_fenced_total", "Sessions dropped because somebody else claimed them.")
CHECKPOINT_ROWS = Counter("lectern_checkpoint_rows_total", "Sessions saved.")
CHECKPOINT_SECONDS = Histogram("lectern_checkpoint_seconds", "One statement of up to 500 sessions.", buckets=_REQUEST_S)
REPLAY_SECONDS = Histogram("lectern_replay_seconds", "Reading and applying one session's stream.", buckets=_REQUEST_S)
