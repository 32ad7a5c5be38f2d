//! What a program tells about itself while it runs: log lines, metrics, health.
