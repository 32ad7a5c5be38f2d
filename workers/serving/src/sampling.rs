//! From logits to a token.

/// How tokens are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 takes the likeliest token each time.
    pub temperature: f32,
    /// Only the likeliest tokens up to this probability.
    pub top_p: f32,
    /// Longest completion, in tokens.
    pub max_tokens: usize,
    /// Equal seeds give equal completions.
    pub seed: u64,
    /// Texts that end a completion.
    pub stop: Vec<String>,
}

/// Draws tokens one after another.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f32,
    state: u64,
    weights: Vec<(f32, u32)>,
}

impl Sampler {
    pub(crate) fn new(sampling: &Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            state: sampling.seed,
            weights: Vec::new(),
        }
    }

    /// A token by its logit; `None` if none has a finite one.
    pub(crate) fn draw(&mut self, logits: impl Iterator<Item = (u32, f32)>) -> Option<u32> {
        let weights = &mut self.weights;
        weights.clear();
        weights.extend(
            logits
                .filter(|(_, logit)| logit.is_finite())
                .map(|(id, logit)| (logit, id)),
        );
        let (largest, likeliest) = weights
            .iter()
            .copied()
            .reduce(|best, other| if other.0 > best.0 { other } else { best })?;
        // Below this, the division leaves the range of the exponents.
        if self.temperature < 1e-3 {
            return Some(likeliest);
        }
        for (weight, _) in weights.iter_mut() {
            *weight = ((*weight - largest) / self.temperature).exp();
        }
        let sum: f32 = weights.iter().map(|(weight, _)| weight).sum();
        let mut kept = sum;
        if self.top_p < 1.0 {
            weights.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let enough = sum * self.top_p.max(0.0);
            let mut n_kept = 0;
            kept = 0.0;
            while n_kept < weights.len() && (n_kept == 0 || kept < enough) {
                kept += weights[n_kept].0;
                n_kept += 1;
            }
            weights.truncate(n_kept);
        }
        let mut place = self.uniform() * kept;
        let ids = self.weights.iter();
        let drawn = ids.clone().find(|(weight, _)| {
            place -= weight;
            place < 0.0
        });
        // Rounding may leave a rest.
        Some(drawn.map_or(likeliest, |&(_, id)| id))
    }

    /// A number from 0 to 1, 1 excluded, by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    fn uniform(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f32 / (1_u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32) -> Sampler {
        Sampler::new(&Sampling {
            temperature,
            top_p,
            max_tokens: 1,
            seed: 7,
            stop: Vec::new(),
        })
    }

    fn shares(temperature: f32, top_p: f32) -> [f64; 3] {
        let logits = [0.5_f32.ln(), 0.3_f32.ln(), 0.2_f32.ln()];
        let mut sampler = sampler(temperature, top_p);
        let mut counts = [0.0; 3];
        for _ in 0..20_000 {
            let logits = (0..).zip(logits);
            counts[sampler.draw(logits).unwrap() as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn assert_near(shares: [f64; 3], expected: [f64; 3]) {
        for (share, expected) in shares.into_iter().zip(expected) {
            assert!((share - expected).abs() < 0.015, "{shares:?}");
        }
    }

    #[test]
    fn tokens_come_as_often_as_the_model_says() {
        assert_near(shares(1.0, 1.0), [0.5, 0.3, 0.2]);
        // Squared and normalised.
        assert_near(shares(0.5, 1.0), [0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38]);
        assert_near(shares(1.0, 0.7), [0.625, 0.375, 0.0]);
        assert_near(shares(1.0, 0.0), [1.0, 0.0, 0.0]);
        assert_near(shares(0.0, 1.0), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_no_number_is_not_drawn() {
        let mut sampler = sampler(1.0, 1.0);
        let logits = [f32::NAN, f32::NEG_INFINITY, 0.0];
        assert!((0..100).all(|_| sampler.draw((0..).zip(logits)) == Some(2)));
        assert_eq!(sampler.draw((0..).zip([f32::NAN])), None);
        assert_eq!(sampler.draw(std::iter::empty()), None);
    }
}
