# One server process. Its parts (Postgres, Redis, S3) are given by settings: LECTERN_POSTGRES__DSN and so on.
#
#   docker build -t lectern .
#   docker run -p 8080:8080 -e LECTERN_POSTGRES__DSN=... -e LECTERN_REDIS__URL=... -e LECTERN_AUTH__SECRET=... lectern
#   docker exec -it CONTAINER python -m server.admin --help      # what is bin/admin elsewhere

FROM node:24-slim AS page
WORKDIR /lectern
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund --ignore-scripts

FROM python:3.12-slim AS packages
WORKDIR /lectern
COPY requirements/server.txt requirements/
RUN python -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements/server.txt \
    && .venv/bin/pip uninstall --yes pip

FROM python:3.12-slim
RUN useradd --system --uid 10001 --no-create-home lectern
WORKDIR /lectern
COPY --from=packages /lectern/.venv .venv
COPY --from=page /lectern/node_modules node_modules
COPY config.toml ./
COPY sql sql
COPY web web
COPY server server
COPY actors actors
COPY handlers handlers
ENV PATH=/lectern/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LECTERN_SERVER__HOST=0.0.0.0
USER lectern
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('LECTERN_SERVER__PORT', 8080)), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
# SIGTERM drains: ready no more, players are sent elsewhere, the last checkpoint is written. That may take
# `sessions.drain_s`, longer than Docker waits unasked: docker stop --time 25.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "server"]
