//! What requests cost: by a server's count, and by what they may take at most.

use gleaner_endpoint::{TokenBound, Usage};
use gleaner_schemas::job::Price;

use super::spending::{Amounts, NANOS_PER_UNIT};

/// A price is per so many tokens.
const TOKENS_PER_PRICE: u128 = 1_000_000;

/// What one request costs with so many tokens, rounded up.
#[must_use]
pub fn cost(price: Option<&Price>, prompt_tokens: u64, completion_tokens: u64) -> Amounts {
    let nanos = price.map_or(0, |price| {
        let per_tokens = |price: f64| (price * NANOS_PER_UNIT).ceil() as u128;
        let total = per_tokens(price.input)
            .saturating_mul(u128::from(prompt_tokens))
            .saturating_add(per_tokens(price.output).saturating_mul(u128::from(completion_tokens)));
        u64::try_from(total.div_ceil(TOKENS_PER_PRICE)).unwrap_or(u64::MAX)
    });
    Amounts {
        nanos,
        tokens: prompt_tokens.saturating_add(completion_tokens),
        requests: 1,
    }
}

/// What a reply cost by the server's count; of what it does not tell, the most that it may be.
#[must_use]
pub fn cost_of(price: Option<&Price>, usage: Usage, bound: TokenBound) -> Amounts {
    let (prompt, completion) = match usage.total_tokens {
        // As much as can be of what is dearer.
        Some(total) if price.is_some_and(|price| price.output > price.input) => {
            let completion = bound.completion.min(total);
            (total - completion, completion)
        }
        _ => usage.or_estimates(bound.prompt, bound.completion),
    };
    cost(price, prompt, completion)
}

#[cfg(test)]
mod tests {
    use super::super::spending::money;
    use super::*;

    #[test]
    fn money_is_exact() {
        let price = Price {
            input: 0.1,
            output: 0.4,
        };
        let check = |prompt, completion, expected: &str| {
            assert_eq!(
                money(cost(Some(&price), prompt, completion).nanos),
                expected
            );
        };
        check(0, 0, "0.00");
        check(1_000_000, 0, "0.10");
        check(1_000_000, 1_000_000, "0.50");
        check(1, 0, "0.0000001");
        check(123, 45, "0.0000303");
        assert_eq!(cost(None, 3, 4).nanos, 0);
        assert_eq!(cost(None, 3, 4).tokens, 7);
    }

    #[test]
    fn what_a_server_does_not_tell_costs_the_most_that_it_may() {
        let usage = |prompt_tokens, completion_tokens, total_tokens| Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens,
        };
        let bound = TokenBound {
            prompt: 1000,
            completion: 100,
        };
        let check = |(input, output), usage, expected: (u64, u64)| {
            let price = Some(Price { input, output });
            let found = cost_of(price.as_ref(), usage, bound);
            assert_eq!(
                found,
                cost(price.as_ref(), expected.0, expected.1),
                "{usage:?}"
            );
        };
        let dear = (1.0, 4.0);
        check(dear, usage(Some(7), Some(5), None), (7, 5));
        check(dear, usage(Some(7), None, None), (7, 100));
        check(dear, usage(None, Some(5), None), (1000, 5));
        check(dear, usage(None, None, None), (1000, 100));
        check(dear, usage(None, None, Some(300)), (200, 100));
        check(dear, usage(None, None, Some(30)), (0, 30));
        check((4.0, 1.0), usage(None, None, Some(300)), (300, 0));
        check((4.0, 1.0), usage(None, None, Some(1050)), (1000, 50));
    }
}
