//! The address of `--health`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address that a text names: `8080` and `:8080` listen to this machine only; others are told
/// in full, such as `0.0.0.0:8080`.
///
/// # Errors
///
/// A sentence for the user.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    if let Some(port) = text.strip_prefix("localhost:")
        && let Ok(port) = port.parse()
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        "write a port to listen to this machine only, such as 8080, or an address with a port, \
         such as 0.0.0.0:8080 or [::]:8080"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine() {
        let check = |text: &str, expect: &str| {
            assert_eq!(parse_address(text).unwrap().to_string(), expect, "{text}");
        };
        check("8080", "127.0.0.1:8080");
        check(":8080", "127.0.0.1:8080");
        check("localhost:8080", "127.0.0.1:8080");
        check("0.0.0.0:8080", "0.0.0.0:8080");
        check("[::]:0", "[::]:0");
        for text in ["", ":", "70000", "example.com:80", "0.0.0.0", "8080 ", "-1"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
