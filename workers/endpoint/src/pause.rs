//! How long to wait: what the server says, or full jitter around a time that doubles.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::HeaderMap;

/// First longest pause; doubles with each failure.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause of our own.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Longest pause that a server can ask for: longer, and the run would look like it hangs.
const ASKED_MAX: Duration = Duration::from_secs(120);

/// Full jitter: whoever failed together must not come back together.
pub(crate) fn back_off(n_failures: u32, random: u64) -> Duration {
    let longest = BACK_OFF_MIN
        .saturating_mul(2_u32.saturating_pow(n_failures.saturating_sub(1).min(16)))
        .min(BACK_OFF_MAX);
    let longest_ms = u64::try_from(longest.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    Duration::from_millis(random % longest_ms)
}

/// What the head of an answer asks to wait.
pub(crate) fn asked(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let milliseconds = text("retry-after-ms")
        .and_then(|text| text.parse::<f64>().ok())
        .and_then(|ms| seconds(ms / 1000.0));
    let after = || {
        let text = text("retry-after")?;
        if let Ok(number) = text.parse::<f64>() {
            return seconds(number);
        }
        let date = DateTime::parse_from_rfc2822(text).ok()?;
        // By the server's clock, where it shows it.
        let server_now = self::date(headers).unwrap_or(now);
        let wait = date.with_timezone(&Utc).signed_duration_since(server_now);
        Some(wait.to_std().unwrap_or(Duration::ZERO))
    };
    let reset = || {
        let names = [
            "x-ratelimit-reset-requests",
            "x-ratelimit-reset-tokens",
            "x-ratelimit-reset",
        ];
        let spans = names.into_iter().filter_map(|name| span(text(name)?));
        spans.max()
    };
    let asked = milliseconds.or_else(after).or_else(reset)?;
    Some(asked.min(ASKED_MAX))
}

fn date(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let text = headers.get("date")?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc))
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// `1m30.5s`, `20ms`, `2h`, or seconds.
fn span(text: &str) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        return seconds(number);
    }
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, behind) = rest.split_at(unit_at);
        let unit_end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(unit_end);
        let in_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        sum = sum.checked_add(seconds(number.parse::<f64>().ok()? * in_seconds)?)?;
        rest = next;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_servers_ask_for() {
        let now = DateTime::parse_from_rfc2822("Tue, 24 Nov 2026 12:00:00 GMT")
            .expect("a date")
            .with_timezone(&Utc);
        let check = |headers: &[(&'static str, &'static str)], expected_ms: Option<u64>| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
            let found = asked(&map, now).map(|it| it.as_millis() as u64);
            assert_eq!(found, expected_ms, "{headers:?}");
        };
        check(&[], None);
        check(&[("retry-after", "3")], Some(3000));
        check(&[("retry-after", "0.5")], Some(500));
        check(
            &[("retry-after", "Tue, 24 Nov 2026 12:00:07 GMT")],
            Some(7000),
        );
        check(&[("retry-after", "Tue, 24 Nov 2026 11:00:00 GMT")], Some(0));
        // Our clock is an hour behind the server's.
        check(
            &[
                ("retry-after", "Tue, 24 Nov 2026 13:00:07 GMT"),
                ("date", "Tue, 24 Nov 2026 13:00:00 GMT"),
            ],
            Some(7000),
        );
        check(
            &[("retry-after-ms", "250"), ("retry-after", "9")],
            Some(250),
        );
        check(&[("x-ratelimit-reset-requests", "1m30s")], Some(90_000));
        check(&[("x-ratelimit-reset-tokens", "20ms")], Some(20));
        check(
            &[
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-reset-tokens", "6.5s"),
            ],
            Some(6500),
        );
        // Nobody waits an hour for a server.
        check(&[("retry-after", "3600")], Some(120_000));
        check(&[("retry-after", "-1")], None);
        check(&[("retry-after", "soon")], None);
        check(&[("x-ratelimit-reset-requests", "1 fortnight")], None);
        check(&[("retry-after", "1e300")], None);
    }

    #[test]
    fn our_own_pauses() {
        for n_failures in 1..40 {
            let longest = back_off(n_failures, u64::MAX - 1);
            assert!(longest < BACK_OFF_MAX, "{n_failures}");
        }
        assert!(back_off(1, u64::MAX) < BACK_OFF_MIN);
    }
}
