"""The demo's people. Their passwords are no secret: they are printed, and are never made in a database of one's own."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Account:
    """`role` is one of student, instructor, admin."""

    username: str
    email: str
    password: str
    role: str


LEARNER: Final = Account("learner", "learner@demo.lectern", "learner-demo-1", "student")
INSTRUCTOR: Final = Account("instructor", "instructor@demo.lectern", "instructor-demo-1", "instructor")
ADMIN: Final = Account("admin", "admin@demo.lectern", "admin-demo-1", "admin")
ACCOUNTS: Final = (LEARNER, INSTRUCTOR, ADMIN)
