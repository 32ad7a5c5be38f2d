//! What is spent at an endpoint, and what is reserved: the value that all workers of a job change
//! in turn. Pure: numbers and times come in.
//!
//! A worker takes a **lease** before it sends anything: an amount that it may spend until some
//! time. It settles what replies cost, and gives back what it did not use. The sum of what is spent
//! and of all leases never exceeds a limit, so the cap holds with any number of workers. A lease
//! that ran out was of a worker that is gone: what its requests may have cost counts as spent.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, AddAssign};

use gleaner_schemas::job::Budget;
use serde::{Deserialize, Serialize};

/// Billionths of the currency's unit.
pub(super) const NANOS_PER_UNIT: f64 = 1e9;
/// Money, tokens and requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amounts {
    /// Money in billionths; sums of it are exact.
    pub nanos: u64,
    /// Tokens of prompts and completions.
    pub tokens: u64,
    /// Requests.
    pub requests: u64,
}

impl Add for Amounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            tokens: self.tokens.saturating_add(other.tokens),
            requests: self.requests.saturating_add(other.requests),
        }
    }
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Amounts {
    /// What is left of it without `other`; nothing where that is more.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            tokens: self.tokens.saturating_sub(other.tokens),
            requests: self.requests.saturating_sub(other.requests),
        }
    }

    /// Whether it is enough for `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.nanos >= other.nanos && self.tokens >= other.tokens && self.requests >= other.requests
    }

    /// So many times as much.
    #[must_use]
    pub fn times(self, factor: u64) -> Self {
        Self {
            nanos: self.nanos.saturating_mul(factor),
            tokens: self.tokens.saturating_mul(factor),
            requests: self.requests.saturating_mul(factor),
        }
    }

    fn at_most(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.min(other.nanos),
            tokens: self.tokens.min(other.tokens),
            requests: self.requests.min(other.requests),
        }
    }

    fn at_least(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.max(other.nanos),
            tokens: self.tokens.max(other.tokens),
            requests: self.requests.max(other.requests),
        }
    }

    fn divided_by(self, divisor: u64) -> Self {
        Self {
            nanos: self.nanos / divisor,
            tokens: self.tokens / divisor,
            requests: self.requests / divisor,
        }
    }
}

/// Money as people write it, with as many decimals as it has, at most nine.
#[must_use]
pub fn money(nanos: u64) -> String {
    let (units, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let decimals = format!("{rest:09}");
    let trimmed = decimals.trim_end_matches('0');
    format!("{units}.{trimmed:0<2}")
}

/// The limits that a budget sets; without a limit, as much as there can be.
#[must_use]
pub fn limits(budget: Option<&Budget>) -> Amounts {
    let money = budget.and_then(|budget| budget.money);
    Amounts {
        nanos: money.map_or(u64::MAX, |money| (money * NANOS_PER_UNIT).floor() as u64),
        tokens: budget.and_then(|it| it.tokens).unwrap_or(u64::MAX),
        requests: budget.and_then(|it| it.requests).unwrap_or(u64::MAX),
    }
}

/// What one worker may spend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// How much.
    pub amounts: Amounts,
    /// Whose it is, for people.
    pub worker: String,
    /// When it was taken: milliseconds since 1970.
    pub since_ms: i64,
    /// Until when requests that count on it may be under way.
    pub until_ms: i64,
    /// What was settled on it so far, and is spent.
    #[serde(default)]
    pub settled: Amounts,
}

/// What is spent and reserved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spending {
    /// Version of this format: [`Spending::FORMAT`].
    pub format: u32,
    /// What replies cost, and what lost workers may have spent.
    pub spent: Amounts,
    /// The part of it that is not known for sure: requests of lost workers.
    pub possibly: Amounts,
    /// Leases by id.
    pub leases: BTreeMap<String, Lease>,
    /// Random, so that no two changes have the same bytes.
    pub nonce: u64,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoLease {
    /// The limit is reached.
    Spent(Shortage),
    /// Other workers hold the rest; some of it may come back.
    Held(Shortage),
}

/// What a limit leaves no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    limits: Amounts,
    spent: Amounts,
    reserved: Amounts,
    need: Amounts,
    /// When what others hold has come back, unless they take it anew: by the store's clock, in
    /// milliseconds since 1970.
    pub held_until_ms: Option<i64>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = self.spent + self.reserved + self.need;
        let mut parts = Vec::new();
        let mut push = |name: &str, of: fn(&Amounts) -> u64, shown: fn(u64) -> String| {
            if of(&after) > of(&self.limits) {
                parts.push(format!(
                    "of {} {name} {} are spent and {} reserved, and the next request may take {}",
                    shown(of(&self.limits)),
                    shown(of(&self.spent)),
                    shown(of(&self.reserved)),
                    shown(of(&self.need))
                ));
            }
        };
        let number = |number: u64| number.to_string();
        push("money", |it| it.nanos, money);
        push("tokens", |it| it.tokens, number);
        push("requests", |it| it.requests, number);
        f.write_str(&parts.join("; "))
    }
}

impl Spending {
    /// The version of the format that this build writes and reads.
    pub const FORMAT: u32 = 1;
    /// A lease takes at most this share of what is left, so that others get some.
    const SHARE: u64 = 8;

    /// What is reserved by leases.
    #[must_use]
    pub fn reserved(&self) -> Amounts {
        self.leases
            .values()
            .fold(Amounts::default(), |sum, lease| sum + lease.amounts)
    }

    /// Makes the lease `id` cover `need`, and more up to `wish` if there is plenty.
    ///
    /// # Errors
    ///
    /// If the limits leave no room for `need`.
    pub fn take(
        &mut self,
        id: &str,
        lease: Lease,
        need: Amounts,
        limits: Amounts,
    ) -> Result<Amounts, NoLease> {
        let wish = lease.amounts;
        let held = self.leases.remove(id).map(|lease| lease.amounts);
        let held = held.unwrap_or_default();
        let reserved = self.reserved();
        let ends = self.leases.values().map(|lease| lease.until_ms);
        let shortage = Shortage {
            limits,
            spent: self.spent,
            reserved,
            need,
            held_until_ms: ends.max().map(|end| end.saturating_add(CLOCKS_DIFFER_MS)),
        };
        let left = limits.minus(self.spent + reserved);
        if !left.covers(need) {
            if held != Amounts::default() {
                let amounts = held;
                self.leases
                    .insert(id.to_owned(), Lease { amounts, ..lease });
            }
            let without_others = limits.minus(self.spent);
            return Err(if without_others.covers(need) {
                NoLease::Held(shortage)
            } else {
                NoLease::Spent(shortage)
            });
        }
        let fair = left.divided_by(Self::SHARE).at_least(need);
        let amounts = wish.at_least(need).at_most(fair);
        self.leases
            .insert(id.to_owned(), Lease { amounts, ..lease });
        Ok(amounts)
    }

    /// Books what was spent on the lease `id`, which keeps what is left of it. A lease that was
    /// written off meanwhile has been booked.
    pub fn settle(&mut self, id: &str, spent: Amounts) {
        if let Some(lease) = self.leases.get_mut(id) {
            lease.amounts = lease.amounts.minus(spent);
            lease.settled += spent;
            self.spent += spent;
        }
    }

    /// Gives back what is left of a lease.
    pub fn give_back(&mut self, id: &str) {
        self.leases.remove(id);
    }

    /// Ids of the leases whose time is over at `now_ms`, with some time for clocks that differ.
    #[must_use]
    pub fn expired(&self, now_ms: i64) -> Vec<String> {
        let is_over = |lease: &&Lease| lease.until_ms.saturating_add(CLOCKS_DIFFER_MS) < now_ms;
        let expired = self.leases.iter().filter(|(_, lease)| is_over(lease));
        expired.map(|(id, _)| id.clone()).collect()
    }

    /// Ends a lease whose worker is gone, if it is still the one that began at `since_ms` and is over
    /// at `now_ms`: its requests cost `known` for sure, of which a part is settled, and `possibly` more.
    /// What is not known for sure cannot be more than the lease still held: nothing was sent beyond
    /// it, and notes of what a server refused may not have been taken back.
    pub fn write_off(
        &mut self,
        id: &str,
        (since_ms, now_ms): (i64, i64),
        known: Amounts,
        possibly: Amounts,
    ) {
        let is_over = self.expired(now_ms).iter().any(|expired| expired == id);
        let is_same = self
            .leases
            .get(id)
            .is_some_and(|lease| lease.since_ms == since_ms);
        if !is_over || !is_same {
            return;
        }
        if let Some(lease) = self.leases.remove(id) {
            let known_rest = known.minus(lease.settled);
            let bound = lease.amounts.at_least(known_rest);
            let rest = (known + possibly).minus(lease.settled).at_most(bound);
            self.spent += rest;
            self.possibly += rest.minus(known_rest).at_most(possibly);
        }
    }
}

/// Clocks of two machines may differ by this much.
const CLOCKS_DIFFER_MS: i64 = 60_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lease(nanos: u64) -> Lease {
        Lease {
            amounts: nanos_only(nanos),
            worker: "w".to_owned(),
            since_ms: 0,
            until_ms: 1000,
            settled: Amounts::default(),
        }
    }

    fn nanos_only(nanos: u64) -> Amounts {
        Amounts {
            nanos,
            ..Amounts::default()
        }
    }

    fn limit(nanos: u64) -> Amounts {
        Amounts {
            nanos,
            ..limits(None)
        }
    }

    #[test]
    fn a_budget_of_money_is_exact() {
        let budget = Budget {
            money: Some(25.0),
            ..Budget::default()
        };
        assert_eq!(money(limits(Some(&budget)).nanos), "25.00");
    }

    #[test]
    fn the_last_of_a_budget() {
        let mut spending = Spending::default();
        let need = nanos_only(10);
        assert_eq!(
            spending.take("a", lease(100), need, limit(100)),
            Ok(nanos_only(12))
        );
        // Another worker gets a share of the rest.
        assert_eq!(
            spending.take("b", lease(100), need, limit(100)),
            Ok(nanos_only(11))
        );
        spending.settle("a", nanos_only(12));
        spending.settle("b", nanos_only(5));
        assert_eq!(spending.spent, nanos_only(17));
        assert_eq!(spending.reserved(), nanos_only(6));
        // What others hold may come back; what is spent does not.
        let held = spending.take("a", lease(1), nanos_only(80), limit(100));
        let Err(NoLease::Held(held)) = held else {
            panic!("{held:?}");
        };
        assert_eq!(held.held_until_ms, Some(1000 + CLOCKS_DIFFER_MS));
        let spent = spending.take("a", lease(1), nanos_only(90), limit(100));
        let Err(NoLease::Spent(shortage)) = spent else {
            panic!("{spent:?}");
        };
        assert!(
            shortage.to_string().starts_with("of 0.0000001 money"),
            "{shortage}"
        );
        spending.give_back("b");
        assert!(
            spending
                .take("a", lease(1), nanos_only(83), limit(100))
                .is_ok()
        );
    }

    #[test]
    fn workers_that_are_gone() {
        let mut spending = Spending::default();
        let taken = spending.take("a", lease(50), nanos_only(50), limit(100));
        assert!(taken.is_ok());
        assert_eq!(
            spending.expired(1000 + CLOCKS_DIFFER_MS),
            Vec::<String>::new()
        );
        assert_eq!(spending.expired(1001 + CLOCKS_DIFFER_MS), ["a"]);
        // A part of what its requests cost was settled before it was lost.
        spending.settle("a", nanos_only(15));
        let over = (0, 1001 + CLOCKS_DIFFER_MS);
        // Whoever took it anew, or still may send, keeps it.
        spending.write_off("a", (5, over.1), nanos_only(20), nanos_only(7));
        spending.write_off("a", (0, 1000), nanos_only(20), nanos_only(7));
        assert_eq!(spending.spent, nanos_only(15));
        spending.write_off("a", over, nanos_only(20), nanos_only(7));
        assert_eq!(spending.spent, nanos_only(27));
        assert_eq!(spending.possibly, nanos_only(7));
        // It held no more than this when it was lost, however much its notes tell.
        let taken = spending.take("b", lease(10), nanos_only(10), limit(100));
        assert!(taken.is_ok());
        spending.settle("b", nanos_only(4));
        spending.write_off("b", over, nanos_only(6), nanos_only(500));
        assert_eq!(spending.spent, nanos_only(37));
        assert_eq!(spending.possibly, nanos_only(11));
        // It comes back after all: what it spent is booked already.
        spending.settle("a", nanos_only(25));
        spending.write_off("a", over, nanos_only(20), nanos_only(7));
        assert_eq!(spending.spent, nanos_only(37));
        // What is known for sure counts, even where a server took more than was reserved.
        let taken = spending.take("c", lease(10), nanos_only(10), limit(100));
        assert!(taken.is_ok());
        spending.write_off("c", over, nanos_only(12), nanos_only(500));
        assert_eq!(spending.spent, nanos_only(49));
        assert_eq!(spending.possibly, nanos_only(11));
    }

    proptest! {
        /// Whatever workers do, what is spent and reserved stays below the limit.
        #[test]
        fn the_cap_holds(
            cap in 1_u64..5000,
            steps in prop::collection::vec((0_u8..5, 0_u8..5, 1_u64..200), 1..200),
        ) {
            let mut spending = Spending::default();
            for (action, worker, amount) in steps {
                let id = worker.to_string();
                match action {
                    0 | 1 => {
                        let _ = spending.take(&id, lease(amount * 8), nanos_only(amount), limit(cap));
                    }
                    2 => {
                        // A worker spends no more than its lease allows.
                        let held = spending.leases.get(&id).map_or(0, |it| it.amounts.nanos);
                        spending.settle(&id, nanos_only(amount.min(held)));
                    }
                    3 => spending.give_back(&id),
                    _ => {
                        let over = (0, 1001 + CLOCKS_DIFFER_MS);
                        spending.write_off(&id, over, Amounts::default(), nanos_only(amount));
                    }
                }
                prop_assert!((spending.spent + spending.reserved()).nanos <= cap);
            }
        }
    }
}
