"""What can go wrong with a service that is not ours; the HTTP floor tells clients of it (502, 503, 504)."""


class ServiceError(Exception):
    """An outside service did not do what it was asked to. str() is for the log, not for clients."""


class ServiceAway(ServiceError):
    """It cannot be reached, is overloaded, or answered with an error of its own: worth another try later."""


class ServiceSlow(ServiceAway):
    """It did not answer in time; whether it did what was asked is unknown."""


class ServiceRefused(ServiceError):
    """It understood and refused, or its answer makes no sense: another try gives the same."""


class ServiceHasNone(ServiceRefused):
    """It does not have the thing that was named."""


class ServiceNotConfigured(ServiceError):
    """The settings that it needs are empty."""
