//! Servers that tests start: real ones where they are installed, fakes that misbehave on demand,
//! and a proxy that breaks connections.

pub mod ceph;
pub mod fake_s3;
pub mod proxy;
pub mod tls;
