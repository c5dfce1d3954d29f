# syntax=docker/dockerfile:1
# Two images: `app` (the default, last), and `proxy`: nginx with our configuration and the files that pages load.
#
#   make image
#
# Each base is a variable, so that a digest can be put there: --build-arg PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:…
# The steps are the scripts of deploy/image, which tests/deploy runs too.

ARG PYTHON_IMAGE=python:3.13-slim-bookworm
ARG NGINX_IMAGE=nginx:1.28-bookworm

# ---------------------------------------------------------------- build

FROM ${PYTHON_IMAGE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Layers that change seldom come first.
COPY requirements requirements
COPY deploy/image deploy/image
RUN deploy/image/tools /tools
# no: about 560 MB, for a ClickHouse server. yes: about 740 MB, with the embedded engine too.
ARG EMBEDDED=no
RUN deploy/image/packages /tools /opt/kilowatch ${EMBEDDED}
COPY pyproject.toml README.md LICENSE ./
COPY web web
COPY src src
RUN deploy/image/program /tools /opt/kilowatch /public

# ---------------------------------------------------------------- proxy

FROM ${NGINX_IMAGE} AS proxy
COPY deploy/nginx/kilowatch /etc/nginx/kilowatch
COPY deploy/nginx/container.conf /etc/nginx/nginx.conf
COPY deploy/nginx/errors /srv/kilowatch/errors
COPY --from=build /public /srv/kilowatch
RUN install -d -m 700 -o 101 -g 101 /var/lib/nginx
USER 101:101
VOLUME /var/lib/nginx
EXPOSE 8080 8443
STOPSIGNAL SIGQUIT

# ---------------------------------------------------------------- app

FROM ${PYTHON_IMAGE} AS app
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Kilowatch" \
    org.opencontainers.image.description="An energy management back-end: sites, devices, metrics, and their history." \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
COPY deploy/image/finish /tmp/finish
RUN /tmp/finish "" && rm /tmp/finish
COPY --from=build /opt/kilowatch /opt/kilowatch
ENV PATH=/opt/kilowatch/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KILOWATCH_ENVIRONMENT=production \
    KILOWATCH_DATA_DIR=/var/lib/kilowatch
USER 10001:10001
WORKDIR /var/lib/kilowatch
VOLUME /var/lib/kilowatch
EXPOSE 8000
STOPSIGNAL SIGTERM
# The program asks itself: there is no curl in here.
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["kilowatch", "check", "--server", "http://127.0.0.1:8000"]
ENTRYPOINT ["kilowatch"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
