//! Rotary positions: frequencies, and their scaling to longer contexts.
//!
//! Formulas as in transformers' `modeling_rope_utils.py`, here in f64.

use std::f64::consts::PI;

/// Rotation of queries and keys: dimension `i` of the first half of `dims` is turned together with
/// dimension `i + dims / 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Base of the wavelengths.
    pub theta: f64,
    /// Dimensions of a head that are rotated (the first ones); even.
    pub dims: usize,
    /// How the frequencies are stretched.
    pub scaling: RotaryScaling,
}

/// How the frequencies are stretched to contexts longer than those of the first training.
#[derive(Debug, Clone, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// All frequencies are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by the factor, high ones kept, between them a ramp.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Below this many turns in the original context a frequency is low.
        low_freq_factor: f64,
        /// Above this many turns in the original context a frequency is high.
        high_freq_factor: f64,
        /// The original context, in tokens.
        original_max_positions: f64,
    },
    /// YaRN (arXiv 2309.00071): a ramp over dimensions, and a factor on cosine and sine.
    Yarn {
        /// The factor.
        factor: f64,
        /// Multiplies cosine and sine.
        attention_factor: f64,
        /// Turns at which the ramp starts.
        beta_fast: f64,
        /// Turns at which the ramp ends.
        beta_slow: f64,
        /// The original context, in tokens.
        original_max_positions: f64,
        /// The ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

impl Rotary {
    /// Angle per position of each pair of dimensions, in radians: `dims / 2` values.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        let dims = self.dims as f64;
        let plain = (0..self.dims / 2).map(|i| self.theta.powf(-2.0 * i as f64 / dims));
        match self.scaling {
            RotaryScaling::None => plain.collect(),
            RotaryScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => plain
                .map(|frequency| {
                    let turns = original_max_positions * frequency / (2.0 * PI);
                    if turns > high_freq_factor {
                        frequency
                    } else if turns < low_freq_factor {
                        frequency / factor
                    } else {
                        let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - kept) * frequency / factor + kept * frequency
                    }
                })
                .collect(),
            RotaryScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_positions,
                truncate,
                ..
            } => {
                let dimension_of = |turns: f64| {
                    dims * (original_max_positions / (turns * 2.0 * PI)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension_of(beta_fast), dimension_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
                if low == high {
                    high += 0.001;
                }
                plain
                    .enumerate()
                    .map(|(i, frequency)| {
                        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        frequency / factor * stretched + frequency * (1.0 - stretched)
                    })
                    .collect()
            }
        }
    }

    /// Cosines and sines of positions `0..n_positions`, each `n_positions x dims / 2`, row-major.
    #[must_use]
    pub fn tables(&self, n_positions: usize) -> (Vec<f32>, Vec<f32>) {
        let frequencies = self.frequencies();
        let factor = match self.scaling {
            RotaryScaling::Yarn {
                attention_factor, ..
            } => attention_factor,
            _ => 1.0,
        };
        let angles = || {
            (0..n_positions)
                .flat_map(|position| frequencies.iter().map(move |f| position as f64 * f))
        };
        (
            angles()
                .map(|angle| (angle.cos() * factor) as f32)
                .collect(),
            angles()
                .map(|angle| (angle.sin() * factor) as f32)
                .collect(),
        )
    }
}
