"""Every error a client can be told, in one table (RFC 9457). What other parts' exceptions mean in it, `errors` says.

A problem is an exception: `raise CourseNotFound`, or with more to say `raise ValidationFailed.at("/title", "...")`.
Members of the answer: type, title, status, detail, instance, code, request_id, for some retryable and errors, and
whatever a raiser adds by keyword (`TooManySessions(sessions=[...])`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import orjson
from aiohttp import web

from server.http.documents import html_page, to_html

REGISTRY: dict[str, type["Problem"]] = {}
CONTENT_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer with an error status.

    Args:
        detail: what happened this time, for a person; the class's own sentence when absent.
        errors: for 422, `{"pointer": "/title", "detail": "..."}` each.
        headers: added to the answer.
        extra: further members of the answer.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    retryable: ClassVar[bool | None] = None
    retry_after_s: ClassVar[int | None] = None

    def __init_subclass__(cls) -> None:
        if cls.code in REGISTRY:
            raise TypeError(f"two problems are called {cls.code}")
        REGISTRY[cls.code] = cls

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Sequence[Mapping[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or (self.__doc__ or self.title).strip()
        self.errors = errors
        self.headers = dict(headers or {})
        self.extra = extra
        if self.retry_after_s is not None:
            self.headers.setdefault("Retry-After", str(self.retry_after_s))
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", "Bearer")

    def body(self, instance: str, request_id: str) -> dict[str, Any]:
        """The members of the problem document; `instance` is the path that was asked."""
        members: dict[str, Any] = {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "request_id": request_id,
        }
        if self.retryable is not None:
            members["retryable"] = self.retryable
        if self.errors:
            members["errors"] = list(self.errors)
        elif self.status == 422:  # what cannot be said of one member is said of the whole: the pointer is empty
            members["errors"] = [{"pointer": "", "detail": self.detail}]
        return members | self.extra


# -- 400 ---------------------------------------------------------------------------------------------------------------


class MalformedRequest(Problem):
    """The request could not be read as HTTP or as what this route takes."""

    code, status, title = "malformed_request", 400, "Malformed request"


class MalformedJson(Problem):
    """The body is not JSON."""

    code, status, title = "malformed_json", 400, "Malformed JSON"


class BadCursor(Problem):
    """The cursor is not one that this list gave."""

    code, status, title = "bad_cursor", 400, "Bad cursor"


class TokenInQuery(Problem):
    """A token in a URL ends up in logs: send it as `Authorization: Bearer` or as the subprotocol `bearer.<token>`."""

    code, status, title = "token_in_query", 400, "Token in the query"


class IdempotencyKeyRequired(Problem):
    """This must not happen twice by accident: send a header `Idempotency-Key`, a new one for each purpose."""

    code, status, title = "idempotency_key_required", 400, "Idempotency key required"


class EventInvalid(Problem):
    """The event's signature is missing, wrong, stale or from the future, or the body is no event."""

    code, status, title = "bad_event", 400, "Bad event"


class SubprotocolRequired(Problem):
    """The socket speaks `lectern.v1`, which the opening request did not offer."""

    code, status, title = "subprotocol_required", 400, "Subprotocol required"


# -- 401, 402, 403 -----------------------------------------------------------------------------------------------------


class Unauthorized(Problem):
    """No valid access token was sent: sign in, or refresh the pair."""

    code, status, title = "unauthorized", 401, "Not signed in"


class BadCredentials(Problem):
    """The user name, e-mail or password is wrong."""

    code, status, title = "bad_credentials", 401, "Bad credentials"


class RefreshSpent(Problem):
    """This refresh token was used a moment ago; the answer to that use holds its successor."""

    code, status, title = "refresh_spent", 401, "Refresh token spent"


class RefreshReused(Problem):
    """This refresh token was used before: its family has ended, sign in again."""

    code, status, title = "refresh_reused", 401, "Refresh token reused"


class SignatureInvalid(Problem):
    """The webhook's signature is missing, wrong or stale."""

    code, status, title = "bad_signature", 401, "Bad signature"


class PaymentRequired(Problem):
    """The course must be bought, or covered by a subscription, first."""

    code, status, title = "payment_required", 402, "Payment required"


class CardDeclined(Problem):
    """The card was declined, and nothing was charged: `failure_code` says why. Try another one under a new key."""

    code, status, title = "card_declined", 402, "Card declined"


class Forbidden(Problem):
    """This may be seen by you, but not done by you."""

    code, status, title = "forbidden", 403, "Forbidden"


class RoleRequired(Problem):
    """The caller's role does not include this action."""

    code, status, title = "role_required", 403, "Another role is required"


class NotEntitled(Problem):
    """The course is there, but you are not enrolled in it."""

    code, status, title = "not_entitled", 403, "Not entitled"


class RefundNotAllowed(Problem):
    """This is too long ago, or too much of the course was watched, to take the money back; an administrator may."""

    code, status, title = "refund_not_allowed", 403, "Refund not allowed"


class WrongPassword(Problem):
    """The current password is not this one."""

    code, status, title = "wrong_password", 403, "Wrong password"


class OriginRefused(Problem):
    """Pages of this origin may not call the API: see `server.allowed_origins`."""

    code, status, title = "origin_refused", 403, "Origin refused"


# -- 404, 405 ----------------------------------------------------------------------------------------------------------


class NotFound(Problem):
    """There is nothing here, or nothing that you may know of."""

    code, status, title = "not_found", 404, "Not found"


class UserNotFound(Problem):
    """There is no such user, or none that you may know of."""

    code, status, title = "user_not_found", 404, "User not found"


class RoleNotFound(Problem):
    """The user does not have this role."""

    code, status, title = "role_not_found", 404, "Role not found"


class CourseNotFound(Problem):
    """There is no such course, or none that you may know of."""

    code, status, title = "course_not_found", 404, "Course not found"


class LectureNotFound(Problem):
    """There is no such lecture, or none that you may know of."""

    code, status, title = "lecture_not_found", 404, "Lecture not found"


class VideoNotFound(Problem):
    """There is no such video, or none that you may know of."""

    code, status, title = "video_not_found", 404, "Video not found"


class FileNotFound(Problem):
    """There is no such file, or none that you may know of."""

    code, status, title = "file_not_found", 404, "File not found"


class UploadNotFound(Problem):
    """There is no such upload of yours, or it was given up."""

    code, status, title = "upload_not_found", 404, "Upload not found"


class EnrollmentNotFound(Problem):
    """There is no such enrolment."""

    code, status, title = "enrollment_not_found", 404, "Enrolment not found"


class SessionNotFound(Problem):
    """There is no such video session, or none that you may know of."""

    code, status, title = "session_not_found", 404, "Video session not found"


class TopicNotFound(Problem):
    """There is no such topic, or none that you may know of."""

    code, status, title = "topic_not_found", 404, "Topic not found"


class PostNotFound(Problem):
    """There is no such post, none that you may know of, or it was deleted."""

    code, status, title = "post_not_found", 404, "Post not found"


class PaymentMethodNotFound(Problem):
    """There is no such payment method of yours."""

    code, status, title = "payment_method_not_found", 404, "Payment method not found"


class SubscriptionNotFound(Problem):
    """There is no such subscription of yours."""

    code, status, title = "subscription_not_found", 404, "Subscription not found"


class TransactionNotFound(Problem):
    """There is no such transaction, or none that you may know of."""

    code, status, title = "transaction_not_found", 404, "Transaction not found"


class ProblemNotFound(Problem):
    """There is no problem of this code."""

    code, status, title = "problem_not_found", 404, "No such problem"


class MethodNotAllowed(Problem):
    """The resource does not know this method; the header `Allow` names those it knows."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class RequestTimedOut(Problem):
    """The request's body did not arrive in time."""

    code, status, title, retryable = "request_timeout", 408, "Request time-out", True


# -- 409 to 429 --------------------------------------------------------------------------------------------------------


class Conflict(Problem):
    """This conflicts with the present state of the resource."""

    code, status, title = "conflict", 409, "Conflict"


class UsernameTaken(Problem):
    """Another user has this name."""

    code, status, title = "username_taken", 409, "User name taken"


class EmailTaken(Problem):
    """Another user has this e-mail address."""

    code, status, title = "email_taken", 409, "E-mail address taken"


class LastAdmin(Problem):
    """There must be an administrator: give somebody else the role first."""

    code, status, title = "last_admin", 409, "Last administrator"


class VideoNotReady(Problem):
    """The video is not ready to be played yet."""

    code, status, title, retryable = "video_not_ready", 409, "Video not ready", True


class FileNotReady(Problem):
    """The file's upload has not been completed."""

    code, status, title, retryable = "file_not_ready", 409, "File not ready", True


class UploadCompleted(Problem):
    """The upload was completed: delete the file instead."""

    code, status, title = "upload_completed", 409, "Upload completed"


class QuotaExceeded(Problem):
    """Your files would take more room than you have; delete some first."""

    code, status, title = "quota_exceeded", 409, "Quota exceeded"


class AlreadyEnrolled(Problem):
    """You are enrolled in this course, or have bought it: enrol again without paying."""

    code, status, title = "already_enrolled", 409, "Already enrolled"


class AlreadyEntitled(Problem):
    """This course is open to you without paying."""

    code, status, title = "already_entitled", 409, "Already entitled"


class AlreadySubscribed(Problem):
    """You have a subscription, or one that waits for you to act (`subscription_id`): change it, or end it first."""

    code, status, title = "already_subscribed", 409, "Already subscribed"


class SubscriptionEnded(Problem):
    """This subscription has ended, or has not begun; take out another one under a new key."""

    code, status, title = "subscription_ended", 409, "Subscription ended"


class CourseIsFree(Problem):
    """The course costs nothing: enrol."""

    code, status, title = "course_is_free", 409, "Course is free"


class PurchasePending(Problem):
    """A purchase of this course is under way (`transaction_id`): go on with it, or give it up first."""

    code, status, title, retryable = "purchase_pending", 409, "Purchase pending", True


class PurchaseCanceled(Problem):
    """The purchase of this key was given up, and nothing was charged: begin another under a new key."""

    code, status, title = "purchase_canceled", 409, "Purchase canceled"


class PurchaseDisputed(Problem):
    """You dispute a payment for this course: it cannot be bought again before that is decided."""

    code, status, title = "purchase_disputed", 409, "Purchase disputed"


class NotCancelable(Problem):
    """The payment is decided and cannot be given up any more."""

    code, status, title = "not_cancelable", 409, "Not cancelable"


class NotRefundable(Problem):
    """There is nothing here that could be given back now: not charged, given back already, or disputed."""

    code, status, title = "not_refundable", 409, "Not refundable"


class TooManySessions(Problem):
    """The user watches in as many places as allowed; `takeover` ends those that were seen longest ago."""

    code, status, title = "too_many_sessions", 409, "Too many live sessions"


class SessionEnded(Problem):
    """The video session has ended; make a new one."""

    code, status, title = "session_ended", 409, "Video session ended"


class TopicLocked(Problem):
    """The topic is locked: only the course's owner posts in it."""

    code, status, title = "topic_locked", 409, "Topic locked"


class TopicHasPosts(Problem):
    """Others have posted in the topic: its author can no longer delete it."""

    code, status, title = "topic_has_posts", 409, "Topic has posts"


class TutorBusy(Problem):
    """The tutor is still answering you: stop that answer, or wait for its end."""

    code, status, title, retryable, retry_after_s = "busy", 409, "One question at a time", True, 2


class IdempotencyKeyInUse(Problem):
    """The first request with this `Idempotency-Key` is still running."""

    code, status, title, retryable = "idempotency_key_in_use", 409, "Idempotency key in use", True


class BodyTooLarge(Problem):
    """The body is larger than this route takes."""

    code, status, title = "body_too_large", 413, "Body too large"


class RangeNotSatisfiable(Problem):
    """The file has no such range of bytes."""

    code, status, title = "range_not_satisfiable", 416, "Range not satisfiable"


class UnsupportedMediaType(Problem):
    """The route does not take bodies of this content type."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class ValidationFailed(Problem):
    """Well-formed, but members of the request are invalid: see `errors`."""

    code, status, title = "validation_failed", 422, "Validation failed"

    @classmethod
    def at(cls, pointer: str, detail: str) -> Self:
        """Of one member, at this JSON pointer (an empty one: of all of them)."""
        return cls(errors=[{"pointer": pointer, "detail": detail}])


class IdempotencyKeyReused(Problem):
    """This `Idempotency-Key` came before, with another request."""

    code, status, title = "idempotency_key_reused", 422, "Idempotency key reused"


class RateLimited(Problem):
    """Too much of this in a short time; `Retry-After` says when there is room again."""

    code, status, title, retryable, retry_after_s = "rate_limited", 429, "Too many requests", True, 1


class ChatBudgetSpent(Problem):
    """You have used up what the tutor may answer you today; it goes on after midnight (UTC)."""

    code, status, title, retryable = "budget_spent", 429, "Today's questions are used up", True
    retry_after_s = 3600


class BadToken(Problem):
    """The token of this link is wrong, was used, or is too old: ask for another mail."""

    code, status, title = "bad_token", 422, "Bad token"


class UpgradeRequired(Problem):
    """This is a WebSocket: open it as one."""

    code, status, title = "upgrade_required", 426, "Upgrade required"


# -- 500 to 504 --------------------------------------------------------------------------------------------------------


class InternalError(Problem):
    """Our fault, and logged under the request's id."""

    code, status, title = "internal_error", 500, "Internal error"


class UpstreamFailed(Problem):
    """A service behind us answered with an error."""

    code, status, title, retryable, retry_after_s = "upstream_failed", 502, "A service behind us failed", True, 5


class TurnFailed(Problem):
    """The tutor's answer broke off: `reason` says why, `text` is what was said of it."""

    code, status, title, retryable, retry_after_s = "turn_failed", 502, "The answer broke off", True, 5


class DatabaseUnavailable(Problem):
    """The database does not answer."""

    code, status, title, retryable, retry_after_s = "database_unavailable", 503, "Database unavailable", True, 1


class RedisUnavailable(Problem):
    """Redis does not answer."""

    code, status, title, retryable, retry_after_s = "redis_unavailable", 503, "Redis unavailable", True, 1


class TimedOut(Problem):
    """The answer could not be made in time."""

    code, status, title, retryable, retry_after_s = "timed_out", 503, "Timed out", True, 1


class NotReady(Problem):
    """This process does not take traffic now: see `parts`."""

    code, status, title, retryable, retry_after_s = "not_ready", 503, "Not ready", True, 1


class NotConfigured(Problem):
    """The service that this route needs is not configured here."""

    code, status, title, retryable, retry_after_s = "not_configured", 503, "Not configured", False, 3600


class Overloaded(Problem):
    """This process has as much as it can carry; another may have room."""

    code, status, title, retryable, retry_after_s = "overloaded", 503, "Overloaded", True, 2


class UpstreamTimedOut(Problem):
    """A service behind us did not answer in time."""

    code, status, title, retryable, retry_after_s = "upstream_timed_out", 504, "A service behind us is slow", True, 5


class UpstreamUnavailable(Problem):
    """A service behind us is away, and is left alone for a while when it has been away for long."""

    code, status, title, retryable, retry_after_s = "upstream_unavailable", 503, "A service behind us is away", True, 5


# What a route may answer that asks a service behind us.
OUTSIDE_PROBLEMS = (NotConfigured, UpstreamFailed, UpstreamTimedOut, UpstreamUnavailable)


# -- as answers and pages ----------------------------------------------------------------------------------------------


def instance_of(request: web.BaseRequest) -> str:
    """What the problem is about: the path as it was sent. Decoded it would be no URI reference any more."""
    return request.rel_url.raw_path


def problem_response(problem: Problem, instance: str, request_id: str) -> web.Response:
    """The answer for a problem."""
    return web.Response(
        body=orjson.dumps(problem.body(instance, request_id), default=str, option=orjson.OPT_UTC_Z),
        status=problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )


def problem_page(code: str) -> str:
    """The HTML page that `type` points to. Raises ProblemNotFound."""
    kind = REGISTRY.get(code)
    if kind is None:
        raise ProblemNotFound
    retry = {True: "The same request may be sent again.", False: "Do not send it again.", None: ""}[kind.retryable]
    return html_page(
        kind.title,
        f"<p><code>{code}</code>, status {kind.status}</p>{to_html(kind.__doc__ or '')}<p>{retry}</p>"
        '<p><a href="/docs">All routes and their problems</a></p>',
    )
