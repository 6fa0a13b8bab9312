# hierax serve on CPUs. Untested: Docker does not run where this was written.
FROM python:3.12-slim

RUN useradd --create-home hierax
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir ".[serve,data]" \
    && rm -rf /build

USER hierax
WORKDIR /home/hierax
# Weights that are fetched, and a store to search, may be mounted here.
ENV HF_HOME=/home/hierax/cache
RUN mkdir cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=2)"]
ENTRYPOINT ["hierax", "serve", "--host", "0.0.0.0"]
