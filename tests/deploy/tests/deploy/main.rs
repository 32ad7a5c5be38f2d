//! `deploy/`: manifests, images, Compose file and settings of servers fit the programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod compose;
mod documented;
mod images;
mod mutations;
mod overlays;
mod servers;
