"""`bin/admin`: the server's commands, on the embedded parts where the configuration names no others."""

import argparse
import os
import sys
from pathlib import Path

from embedded import processes
from embedded.postgres import Postgres
from embedded.processes import PartFailedError
from embedded.valkey import Valkey
from server import admin
from server.config import ConfigError, load_config


def main() -> int:
    """Run one command; answers the exit status."""
    parser = argparse.ArgumentParser(prog="bin/admin", add_help=False, allow_abbrev=False)
    parser.add_argument("--data", type=Path)
    options, arguments = parser.parse_known_args()
    data = (options.data or processes.ROOT / "data").resolve()
    try:
        config = load_config()
    except ConfigError as error:
        print(f"bin/admin: {error}", file=sys.stderr)
        return 2
    if not config.postgres.dsn and (options.data or (data / "keys.json").exists()):
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
    return admin.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
