# The daemon, and the command `afterdelete`:
#   docker build -t afterdelete .
#   docker run --rm -e DATABASE_URL=… afterdelete migrate
#   docker run -e DATABASE_URL=… -e AFTERDELETE_ROOTS=s3://my-bucket/results/ afterdelete
# .ci/container.sh carries these steps out without a container engine. It knows the few instructions that are used here,
# and fails at any other: teach it those you add (tests/container/).

# The major is pinned and not the minor: building again takes the security fixes in.
FROM node:24-bookworm-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
# Scripts of packages fetch what tests need (PostgreSQL, a Node); the compiler needs none of them.
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
COPY sql ./sql
# Declarations and source maps are for those who import the package. A checkout made with a strict umask has files that only
# its owner may read, and they would stay so in the image.
RUN npm run build && find dist -type f ! -name '*.js' -delete && chmod -R a+rX dist sql package.json

FROM node:24-bookworm-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund

FROM node:24-bookworm-slim
LABEL org.opencontainers.image.title="afterdelete" \
      org.opencontainers.image.description="Files are deleted when, and only when, the database rows that hold them are gone." \
      org.opencontainers.image.licenses="MIT"
# 0.0.0.0: on 127.0.0.1 nobody outside of the container could scrape it.
ENV NODE_ENV=production \
    AFTERDELETE_HTTP=0.0.0.0:9464
WORKDIR /app
# All of it belongs to root: the daemon may read its code and not change it.
COPY --from=dependencies /app/node_modules ./node_modules
COPY --from=build /app/package.json ./
COPY --from=build /app/sql ./sql
COPY --from=build /app/dist ./dist
# The user `node` of the base image, as a number: Kubernetes' runAsNonRoot takes no names. For file: roots it must be able
# to write to them; run it as their owner with --user.
USER 1000:1000
EXPOSE 9464
# Without curl, which the slim image lacks. The address 0.0.0.0 is fine to connect to; with HTTP off, there is nothing to ask.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 \
  CMD ["node", "-e", "const at = process.env.AFTERDELETE_HTTP || '127.0.0.1:9464'; if (at !== 'off') fetch('http://' + at + '/healthz').then(answer => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# No shell in between: SIGTERM reaches the daemon itself, which ends within 8 s (AFTERDELETE_SHUTDOWN_GRACE); Docker waits 10.
ENTRYPOINT ["node", "/app/dist/cli/main.js"]
CMD ["run"]
