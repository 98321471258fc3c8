# An image with the command `mcp-sessions` and all that serving takes, built from this checkout: docker build -t mcp-sessions .
# Your own server goes on top of it: FROM mcp-sessions, COPY notes.py ., CMD ["mcp-sessions", "serve", "notes:server", …]

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE alembic.ini ./
COPY migrations migrations
COPY src src
RUN python -m venv /opt/mcp-sessions
RUN /opt/mcp-sessions/bin/pip install --no-cache-dir --constraint constraints.txt '.[serve,telemetry]'

FROM python:3.13-slim
COPY --from=build /opt/mcp-sessions /opt/mcp-sessions
RUN useradd --uid 10001 --user-group --home-dir /data --create-home mcp-sessions
ENV PATH=/opt/mcp-sessions/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=30s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=3)"]
CMD ["mcp-sessions", "serve", "--host", "0.0.0.0", "--port", "8000", "--log-format", "json"]
