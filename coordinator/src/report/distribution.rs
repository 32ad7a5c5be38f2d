//! How numbers are spread: exact quantiles, and counts in bins of a round width. Everything is one
//! of a few queries, so that a user can get each number again.

use serde::Serialize;

use super::input::{Input, Row, count, float, text};
use crate::run_error::RunError;
use crate::sql::{quote, quote_name};

/// Shares of the values that lie at or below the figures of [`Spread::quantiles`].
pub(crate) const QUANTILES: [f64; 13] = [
    0.005, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.995,
];
/// Bins of a histogram, at most.
const BINS_MAX: u32 = 48;
/// Sources that are shown apart; those with most rows.
pub(crate) const SOURCES_MAX: usize = 16;

/// Numbers that are asked for: an expression over some rows of a table.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    /// Name of the table.
    pub(crate) table: String,
    /// SQL over its columns; null where a row has no such number.
    pub(crate) expression: String,
    /// SQL: which rows count.
    pub(crate) filter: String,
}

/// How numbers are spread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Rows with a number.
    pub(crate) n: u64,
    /// Their mean.
    pub(crate) mean: Option<f64>,
    /// Their standard deviation.
    pub(crate) deviation: Option<f64>,
    /// The smallest.
    pub(crate) min: Option<f64>,
    /// The largest.
    pub(crate) max: Option<f64>,
    /// By share: the smallest number that this share of the numbers does not exceed.
    pub(crate) quantiles: Vec<(f64, f64)>,
}

impl Spread {
    /// The number at one of [`QUANTILES`].
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut quantiles = self.quantiles.iter();
        quantiles.find(|it| it.0 == share).map(|it| it.1)
    }
}

/// Bins of equal width, the first of which begins at a multiple of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Bins {
    /// Width of a bin: 1, 2, 2.5 or 5 times a power of ten.
    pub(crate) width: f64,
    /// Number of the first bin, which begins at `first * width`.
    pub(crate) first: i64,
    /// How many there are.
    pub(crate) n: u32,
}

impl Bins {
    /// Bins from the lowest to the highest of these numbers.
    pub(crate) fn over(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.into_iter().filter(|it| it.is_finite()) {
            low = low.min(number);
            high = high.max(number);
        }
        if low > high {
            return None;
        }
        // Numbers that are all the same lie in one bin of a width that people can read.
        let range = match high - low {
            range if range > high.abs() * 1e-9 => range,
            _ => high.abs().max(1.0),
        };
        let width = round_up(range / f64::from(BINS_MAX - 1));
        let first = (low / width).floor();
        let last = (high / width).floor();
        Some(Self {
            width,
            first: first as i64,
            n: (last - first) as u32 + 1,
        })
    }

    /// Where a bin begins.
    pub(crate) fn edge(&self, bin_idx: u32) -> f64 {
        (self.first + i64::from(bin_idx)) as f64 * self.width
    }

    /// The number of the bin in which `x` lies, as SQL.
    fn sql(&self) -> String {
        format!("CAST(floor(x / {:e}) AS BIGINT)", self.width)
    }
}

/// The next number that is 1, 2, 2.5 or 5 times a power of ten.
pub(crate) fn round_up(number: f64) -> f64 {
    let power = 10_f64.powf(number.log10().floor());
    let digits = [1.0, 2.0, 2.5, 5.0];
    let fits = |digit: &&f64| **digit * power >= number * (1.0 - 1e-12);
    digits.iter().find(fits).unwrap_or(&10.0) * power
}

/// Counts of numbers in [`Bins`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// The bins.
    pub(crate) bins: Bins,
    /// Numbers in each bin.
    pub(crate) counts: Vec<u64>,
    /// Numbers that lie before the first bin.
    pub(crate) n_below: u64,
    /// Numbers that lie after the last.
    pub(crate) n_above: u64,
}

impl Histogram {
    fn empty(bins: Bins) -> Self {
        Self {
            bins,
            counts: vec![0; bins.n as usize],
            n_below: 0,
            n_above: 0,
        }
    }

    fn add(&mut self, bin: i64, n: u64) {
        match usize::try_from(bin - self.bins.first) {
            Err(_) => self.n_below += n,
            Ok(idx) => match self.counts.get_mut(idx) {
                Some(count) => *count += n,
                None => self.n_above += n,
            },
        }
    }

    /// All numbers.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.n_below + self.n_above
    }

    /// Shares of all numbers, by bin.
    pub(crate) fn shares(&self) -> Vec<f64> {
        let total = self.total().max(1) as f64;
        self.counts.iter().map(|&n| n as f64 / total).collect()
    }
}

/// A histogram of the rows of one source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SourceHistogram {
    /// The source; absent for rows without one.
    pub(crate) source: Option<String>,
    /// Rows with a number.
    pub(crate) n: u64,
    /// Their mean.
    pub(crate) mean: Option<f64>,
    /// How they are spread.
    pub(crate) histogram: Histogram,
}

impl Values {
    /// A column of the rows of a table that count.
    pub(crate) fn column(input: &Input, table: &str, column: &str) -> Self {
        Self {
            table: table.to_owned(),
            expression: quote_name(column),
            filter: input.eligible(table).to_owned(),
        }
    }

    /// The numbers as a table `x`, with further expressions.
    pub(crate) fn sql(&self, further: &str) -> String {
        format!(
            "(SELECT {} AS x{further} FROM {} WHERE {} AND {} IS NOT NULL)",
            self.expression,
            quote_name(&self.table),
            self.filter,
            self.expression,
        )
    }

    /// How they are spread.
    pub(crate) async fn spread(&self, input: &Input) -> Result<Spread, RunError> {
        let sql = format!(
            "SELECT count(*) AS n, avg(x) AS mean, stddev(x) AS deviation, min(x) AS min, \
             max(x) AS max FROM {}",
            self.sql("")
        );
        let row = input.row(&sql).await?;
        let n = count(&row, "n");
        Ok(Spread {
            n,
            mean: float(&row, "mean"),
            deviation: float(&row, "deviation"),
            min: float(&row, "min"),
            max: float(&row, "max"),
            quantiles: self.quantiles(input, n).await?,
        })
    }

    async fn quantiles(&self, input: &Input, n: u64) -> Result<Vec<(f64, f64)>, RunError> {
        if n == 0 {
            return Ok(Vec::new());
        }
        let ranks = QUANTILES.map(|share| rank(share, n));
        let list: Vec<String> = ranks.iter().map(u64::to_string).collect();
        let sql = format!(
            "SELECT r, x FROM (SELECT x, row_number() OVER (ORDER BY x) AS r FROM {}) WHERE r IN \
             ({})",
            self.sql(""),
            list.join(", ")
        );
        let rows = input.rows(&sql).await?;
        let at = |rank: u64| {
            let row = rows.iter().find(|row| count(row, "r") == rank);
            row.and_then(|row| float(row, "x"))
        };
        let pairs = QUANTILES.iter().zip(ranks);
        Ok(pairs
            .filter_map(|(share, rank)| Some((*share, at(rank)?)))
            .collect())
    }

    /// Their counts in bins.
    pub(crate) async fn histogram(&self, input: &Input, bins: Bins) -> Result<Histogram, RunError> {
        let sql = format!(
            "SELECT {} AS bin, count(*) AS n FROM {} GROUP BY bin",
            bins.sql(),
            self.sql("")
        );
        let mut histogram = Histogram::empty(bins);
        for row in input.rows(&sql).await? {
            histogram.add(bin_of(&row), count(&row, "n"));
        }
        Ok(histogram)
    }

    /// Their counts in bins by source, for these sources, in their order.
    pub(crate) async fn by_source(
        &self,
        input: &Input,
        bins: Bins,
        sources: &[Option<String>],
    ) -> Result<Vec<SourceHistogram>, RunError> {
        if sources.is_empty() || !input.has(&self.table, "source") {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT source, {} AS bin, count(*) AS n, sum(x) AS sum FROM {} WHERE {} GROUP BY \
             source, bin ORDER BY bin",
            bins.sql(),
            self.sql(", source"),
            any_of(sources)
        );
        let mut found: Vec<(f64, SourceHistogram)> = sources
            .iter()
            .map(|source| {
                let of_source = SourceHistogram {
                    source: source.clone(),
                    n: 0,
                    mean: None,
                    histogram: Histogram::empty(bins),
                };
                (0.0, of_source)
            })
            .collect();
        for row in input.rows(&sql).await? {
            let source = text(&row, "source");
            if let Some((sum, of_source)) = found.iter_mut().find(|it| it.1.source == source) {
                let n = count(&row, "n");
                *sum += float(&row, "sum").unwrap_or(0.0);
                of_source.n += n;
                of_source.histogram.add(bin_of(&row), n);
            }
        }
        Ok(found
            .into_iter()
            .map(|(sum, mut of_source)| {
                of_source.mean = (of_source.n > 0).then(|| sum / of_source.n as f64);
                of_source
            })
            .collect())
    }

    /// The sources with most rows, at most [`SOURCES_MAX`], and how many there are. None where no
    /// row has a source.
    pub(crate) async fn sources(
        &self,
        input: &Input,
    ) -> Result<(Vec<Option<String>>, u64), RunError> {
        if !input.has(&self.table, "source") {
            return Ok((Vec::new(), 0));
        }
        let sql = format!(
            "SELECT source, n, count(*) OVER () AS n_sources FROM (SELECT source, count(*) AS n \
             FROM {} GROUP BY source) ORDER BY n DESC, source LIMIT {SOURCES_MAX}",
            self.sql(", source")
        );
        let rows = input.rows(&sql).await?;
        let sources: Vec<Option<String>> = rows.iter().map(|row| text(row, "source")).collect();
        if sources.iter().all(Option::is_none) {
            return Ok((Vec::new(), 0));
        }
        Ok((
            sources,
            rows.first().map_or(0, |row| count(row, "n_sources")),
        ))
    }
}

/// Which of `n` numbers in order is the smallest that `share` of them does not exceed; from 1.
pub(crate) fn rank(share: f64, n: u64) -> u64 {
    // A product such as 0.1 * 30 must not come out above 3.
    ((share * n as f64 - 1e-9).ceil() as u64).clamp(1, n.max(1))
}

fn bin_of(row: &Row) -> i64 {
    row.get("bin")
        .and_then(serde_json::Value::as_i64)
        .unwrap_or(0)
}

fn any_of(sources: &[Option<String>]) -> String {
    let named: Vec<String> = sources.iter().flatten().map(|it| quote(it)).collect();
    let mut conditions = Vec::new();
    if !named.is_empty() {
        conditions.push(format!("source IN ({})", named.join(", ")));
    }
    if sources.iter().any(Option::is_none) {
        conditions.push("source IS NULL".to_owned());
    }
    conditions.join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranks_are_those_of_exact_quantiles() {
        assert_eq!(rank(0.5, 1), 1);
        assert_eq!(rank(0.5, 4), 2);
        assert_eq!(rank(0.1, 30), 3);
        assert_eq!(rank(0.005, 10), 1);
        assert_eq!(rank(0.995, 1000), 995);
    }

    #[test]
    fn widths_are_round() {
        let check = |number: f64, expected: f64| {
            let found = round_up(number);
            assert!(
                (found - expected).abs() < 1e-12 * expected,
                "{number}: {found}"
            );
        };
        check(1.0, 1.0);
        check(1.1, 2.0);
        check(2.1, 2.5);
        check(0.03, 0.05);
        check(600.0, 1000.0);
    }

    proptest! {
        #[test]
        fn bins_hold_what_they_are_over(
            numbers in prop::collection::vec(-1e6..1e6_f64, 1..20),
        ) {
            let bins = Bins::over(numbers.iter().copied()).unwrap();
            prop_assert!(bins.n <= BINS_MAX + 1, "{bins:?}");
            let mut histogram = Histogram::empty(bins);
            for number in &numbers {
                histogram.add((number / bins.width).floor() as i64, 1);
            }
            prop_assert_eq!((histogram.n_below, histogram.n_above), (0, 0));
            prop_assert_eq!(histogram.total(), numbers.len() as u64);
        }
    }

    #[test]
    fn bins_of_one_number_are_one() {
        for number in [0.0, -3.5, 1e12] {
            let bins = Bins::over([number]).unwrap();
            assert!(bins.n <= 2, "{bins:?}");
        }
        assert_eq!(Bins::over([]), None);
        assert_eq!(Bins::over([f64::NAN]), None);
    }
}
