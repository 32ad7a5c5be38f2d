//! Which names the page may be asked for by.
//!
//! A page of the internet can make a browser ask this machine: by a name of its own that it lets
//! point here (DNS rebinding), and then read the answer. Such requests carry that name. Addresses
//! and `localhost` cannot be made to point elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Names that are answered besides addresses and `localhost`.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// These names, without ports.
    #[must_use]
    pub fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| normal(name).to_owned()).collect())
    }

    /// Whether a request for `host`, with or without a port, is answered.
    #[must_use]
    pub fn answers(&self, host: &str) -> bool {
        if let Some(rest) = host.strip_prefix('[') {
            let Some((address, port)) = rest.split_once(']') else {
                return false;
            };
            let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            return is_port && address.parse::<Ipv6Addr>().is_ok();
        }
        let name = match host.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            Some(_) => return false,
            None => host,
        };
        name.parse::<Ipv4Addr>().is_ok()
            || std::iter::once("localhost")
                .chain(self.0.iter().map(String::as_str))
                .any(|known| known.eq_ignore_ascii_case(normal(name)))
    }
}

/// A name without the dot of the root.
fn normal(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_cannot_be_made_to_point_here_are_answered() {
        let hosts = Hosts::new(&["watch.example.com".to_owned()]);
        for host in [
            "localhost",
            "localhost:7373",
            "LOCALHOST.:1",
            "127.0.0.1:7373",
            "10.1.2.3",
            "[::1]:7373",
            "[::1]",
            "watch.example.com",
            "Watch.Example.com:80",
        ] {
            assert!(hosts.answers(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7373",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost:port",
            "localhost:1:2",
            "::1",
            "[::1",
            "[evil.example]:80",
            "[::1]x",
            "user@localhost",
            "localhost ",
            "127.0.0.1/",
        ] {
            assert!(!hosts.answers(host), "{host}");
        }
        assert!(!Hosts::default().answers("watch.example.com"));
    }
}
