//! Sizes, durations, shares and limits as people write them, kept exactly.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A number of bytes with its unit: `256MiB`, `1.5 GB`, `100B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

/// Units from the largest; the first that divides evenly is used to print a size.
const BYTE_UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = BYTE_UNITS
            .iter()
            .find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size));
        match unit {
            Some((name, size)) => write!(f, "{}{name}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            format!(
                "{text:?} is not a size: write a number with a unit (B, kB, MB, GB, TB, KiB, MiB, \
                 GiB, TiB), for example 256MiB"
            )
        };
        let trimmed = text.trim();
        let unit_at = trimmed
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_at);
        let unit = unit.trim();
        let unit_size = if unit == "B" {
            1
        } else {
            let same = |name: &str| name == unit || (unit == "KB" && name == "kB");
            let known = BYTE_UNITS.iter().find(|(name, _)| same(name));
            known.ok_or_else(error)?.1
        };
        let number: Ratio = number.parse().map_err(|_| error())?;
        let bytes =
            u128::from(number.numerator) * u128::from(unit_size) / u128::from(number.denominator);
        u64::try_from(bytes).map(Self).map_err(|_| error())
    }
}

/// A span of time with its unit: `15min`, `30s`, `1h30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// So much time.
    #[must_use]
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The time.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let (size, unit) = [(3_600_000, "h"), (60_000, "min"), (1000, "s")]
            .into_iter()
            .find(|(size, _)| ms > 0 && ms.is_multiple_of(*size))
            .unwrap_or((1, "ms"));
        write!(f, "{}{unit}", ms / size)
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || {
            format!(
                "{text:?} is not a duration: write a number with a unit (ms, s, min, h, d), for \
                 example 15min or 1h30m"
            )
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(error());
        }
        let mut total_ms: u64 = 0;
        while !rest.is_empty() {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let (number, after) = rest.split_at(unit_at);
            let next = after
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(after.len());
            let (unit, remaining) = after.split_at(next);
            let unit_ms = match unit.trim() {
                "ms" => 1,
                "s" | "sec" => 1000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(error()),
            };
            let number: u64 = number.parse().map_err(|_| error())?;
            total_ms = number
                .checked_mul(unit_ms)
                .and_then(|ms| ms.checked_add(total_ms))
                .ok_or_else(error)?;
            rest = remaining.trim_start();
        }
        Ok(Self(Duration::from_millis(total_ms)))
    }
}

/// An exact, non-negative fraction: `1/16`, `0.0625`, `6.25%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    numerator: u64,
    denominator: u64,
}

impl Ratio {
    /// `numerator / denominator`, if the denominator is not zero.
    #[must_use]
    pub fn new(numerator: u64, denominator: u64) -> Option<Self> {
        (denominator > 0).then(|| {
            let divisor = greatest_common_divisor(numerator, denominator);
            Self {
                numerator: numerator / divisor,
                denominator: denominator / divisor,
            }
        })
    }

    /// So many hundredths.
    #[must_use]
    pub const fn of_hundredths(n: u64) -> Self {
        let mut divisor = 100;
        // The largest divisor of both; a `const fn` has no iterators.
        while !n.is_multiple_of(divisor) || !100_u64.is_multiple_of(divisor) {
            divisor -= 1;
        }
        Self {
            numerator: n / divisor,
            denominator: 100 / divisor,
        }
    }

    /// The numerator in lowest terms.
    #[must_use]
    pub const fn numerator(self) -> u64 {
        self.numerator
    }

    /// The denominator in lowest terms; not zero.
    #[must_use]
    pub const fn denominator(self) -> u64 {
        self.denominator
    }

    /// The largest integer that is not above `ratio * n`. Integer arithmetic: no row is lost to
    /// rounding.
    #[must_use]
    pub fn floor_of(self, n: u64) -> u64 {
        let product = u128::from(self.numerator) * u128::from(n) / u128::from(self.denominator);
        u64::try_from(product).unwrap_or(u64::MAX)
    }

    /// The nearest number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Whether it is more than one.
    #[must_use]
    pub fn is_above_one(self) -> bool {
        self.numerator > self.denominator
    }

    /// Whether it is zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if 100 % self.denominator == 0 && self.denominator > 1 {
            write!(
                f,
                "{}%",
                u128::from(self.numerator) * u128::from(100 / self.denominator)
            )
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

impl FromStr for Ratio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        let parsed = if let Some((numerator, denominator)) = trimmed.split_once('/') {
            match (numerator.trim().parse(), denominator.trim().parse()) {
                (Ok(numerator), Ok(denominator)) => Self::new(numerator, denominator),
                _ => None,
            }
        } else if let Some(percent) = trimmed.strip_suffix('%') {
            decimal(percent.trim(), 100)
        } else {
            decimal(trimmed, 1)
        };
        parsed.ok_or_else(|| format!("{text:?} is not a share: write 1/16, 0.0625 or 6.25%"))
    }
}

/// A decimal number divided by `divisor`, if it fits.
fn decimal(text: &str, divisor: u64) -> Option<Ratio> {
    let (integer, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !(is_number(integer) && is_number(fraction)) || (integer.is_empty() && fraction.is_empty()) {
        return None;
    }
    let denominator = 10_u64
        .checked_pow(u32::try_from(fraction.len()).ok()?)?
        .checked_mul(divisor)?;
    Ratio::new(format!("{integer}{fraction}").parse().ok()?, denominator)
}

/// A count (`10`) or a share of a total (`1%`, `1/100`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many.
    Count(u64),
    /// This share of all.
    Share(Ratio),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Share(share) => share.fmt(f),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(count) = text.trim().parse() {
            return Ok(Self::Count(count));
        }
        match text.parse::<Ratio>() {
            Ok(share) if share.numerator <= share.denominator => Ok(Self::Share(share)),
            Ok(_) => Err(format!(
                "{text:?} is more than everything: write a count (10) or a share (1%, 1/100)"
            )),
            Err(_) => Err(format!(
                "{text:?} is not a limit: write a count (10) or a share (1%, 1/100)"
            )),
        }
    }
}

/// Accepts a string, or a number by the text that people would have typed.
struct TextOrNumber<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for TextOrNumber<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        let mut text = number.to_string();
        // 1.0 is a share, 1 may be a count.
        if text.bytes().all(|c| c.is_ascii_digit()) {
            text.push_str(".0");
        }
        text.parse().map_err(E::custom)
    }
}

macro_rules! text_form {
    ($type:ident, $expecting:literal, $description:literal, $schema_type:tt) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(TextOrNumber::<$type>(
                    $expecting,
                    std::marker::PhantomData,
                ))
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $schema_type, "description": $description })
            }
        }
    };
}

text_form!(
    ByteSize,
    "a size such as 256MiB",
    "A size with its unit: 256MiB, 1.5GB.",
    ["string"]
);
text_form!(
    HumanDuration,
    "a duration such as 15min",
    "A duration with its unit: 15min, 30s, 1h30m.",
    ["string"]
);
text_form!(
    Ratio,
    "a share such as 1/16 or 6.25%",
    "A share: 1/16, 0.0625 or 6.25%.",
    ["string", "number"]
);
text_form!(
    Limit,
    "a count or a share such as 1%",
    "A count (10) or a share (1%, 1/100).",
    ["string", "number"]
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        assert_eq!("256MiB".parse(), Ok(ByteSize::new(256 << 20)));
        assert_eq!("1.5 GB".parse(), Ok(ByteSize::new(1_500_000_000)));
        assert_eq!("10KB".parse(), Ok(ByteSize::new(10_000)));
        for wrong in [
            "256",
            "256Mb",
            "12 parsecs",
            "-1MB",
            "",
            "MiB",
            "99999999999TB",
        ] {
            let message = wrong.parse::<ByteSize>().unwrap_err();
            assert!(message.contains("256MiB"), "{message}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(
            "1h30m".parse(),
            Ok(HumanDuration(Duration::from_secs(5400)))
        );
        assert_eq!(
            "15 min".parse(),
            Ok(HumanDuration(Duration::from_secs(900)))
        );
        for wrong in ["15", "", "min", "3 moons", "1.5h"] {
            assert!(wrong.parse::<HumanDuration>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_counts_or_shares() {
        let whole = Limit::Share(Ratio::new(1, 1).unwrap());
        for (json, expected) in [
            ("1", Limit::Count(1)),
            ("1.0", whole),
            ("\"100%\"", whole),
            ("0.5", Limit::Share(Ratio::new(1, 2).unwrap())),
        ] {
            let limit: Limit = serde_json::from_str(json).unwrap();
            assert_eq!(limit, expected, "{json}");
            assert_eq!(limit.to_string().parse(), Ok(expected), "{json}");
        }
        assert!(serde_json::from_str::<Limit>("2.0").is_err());
    }

    #[test]
    fn shares_are_exact() {
        for text in ["1/16", "0.0625", "6.25%"] {
            let ratio: Ratio = text.parse().unwrap();
            assert_eq!(ratio, Ratio::new(1, 16).unwrap());
            assert_eq!(ratio.floor_of(31), 1);
            assert_eq!(ratio.floor_of(32), 2);
        }
        assert_eq!(Ratio::new(1, 3).unwrap().floor_of(3), 1);
        for wrong in ["1/0", "-0.5", "x", "", "1/2/3", ".", "1e3"] {
            assert!(wrong.parse::<Ratio>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn printed_values_read_back(bytes: u64, ms in 0_u64..1 << 50, n in 0_u64..1 << 40, d in 1_u64..1 << 40) {
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            let duration = HumanDuration(Duration::from_millis(ms));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            let ratio = Ratio::new(n, d).unwrap();
            prop_assert_eq!(ratio.to_string().parse(), Ok(ratio));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,12}") {
            let _ = (text.parse::<ByteSize>(), text.parse::<HumanDuration>(), text.parse::<Limit>());
        }
    }
}
