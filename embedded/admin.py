"""`bin/admin`: the server's commands, on the embedded parts where the configuration names no others."""

import os
import sys

from embedded import processes
from embedded.postgres import Postgres
from embedded.valkey import Valkey
from server import admin
from server.config import ConfigError, load_config


def main() -> int:
    """Run one command; answers the exit status."""
    data = processes.ROOT / "data"
    try:
        config = load_config()
    except ConfigError as error:
        print(f"bin/admin: {error}", file=sys.stderr)
        return 2
    if not config.postgres.dsn and (data / "keys.json").exists():
        os.environ["LECTERN_POSTGRES__DSN"] = Postgres(data).dsn
        if not config.redis.url:
            os.environ["LECTERN_REDIS__URL"] = Valkey(data).url
    return admin.main()


if __name__ == "__main__":
    sys.exit(main())
