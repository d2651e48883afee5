"""`bin/admin`: the server's commands, on the embedded parts where the configuration names no others."""

import os
import sys

from embedded import processes
from embedded.postgres import Postgres
from embedded.processes import PartFailedError
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
        try:
            postgres = Postgres(data)
            if not postgres.is_running:
                print(f"bin/admin: nothing runs on {data}; start bin/run, or name postgres.dsn", file=sys.stderr)
                return 1
            os.environ["LECTERN_POSTGRES__DSN"] = postgres.dsn
            if not config.redis.url:
                os.environ["LECTERN_REDIS__URL"] = Valkey(data).url
        except (PartFailedError, OSError) as error:  # of a user to whom the data do not belong
            print(f"bin/admin: {error}", file=sys.stderr)
            return 1
    return admin.main()


if __name__ == "__main__":
    sys.exit(main())
