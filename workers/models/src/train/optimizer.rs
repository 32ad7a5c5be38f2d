//! AdamW (arXiv 1711.05101, algorithm 2), the clipping of gradients, and the schedule of learning
//! rates.

use std::ops::Range;

use rayon::prelude::*;

use super::kernels::math;

/// Parameters that one task treats; sums over them are added in this order whatever the number of
/// threads.
const CHUNK: usize = 1 << 16;

/// Settings of the optimizer.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// Weight of the past in the mean of gradients.
    pub beta1: f64,
    /// Weight of the past in the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub epsilon: f64,
    /// Share of the learning rate by which matrices shrink in a step; norms, biases and embeddings
    /// do not.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
        }
    }
}

/// Running means of gradients and of their squares.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Moments {
    pub(crate) fn new(n_parameters: usize) -> Self {
        Self {
            first: vec![0.0; n_parameters],
            second: vec![0.0; n_parameters],
        }
    }
}

/// Adds all gradients into the first, in their order; gives the norm of the sum.
pub(crate) fn sum_gradients(gradients: &mut [Vec<f32>]) -> f64 {
    let Some((sum, others)) = gradients.split_first_mut() else {
        return 0.0;
    };
    let squares: Vec<f64> = sum
        .par_chunks_mut(CHUNK)
        .enumerate()
        .map(|(number, sum)| {
            let start = number * CHUNK;
            for other in &*others {
                let other = &other[start..start + sum.len()];
                for (sum, other) in sum.iter_mut().zip(other) {
                    *sum += other;
                }
            }
            sum.chunks(1024)
                .map(|part| f64::from(math::dot(part, part)))
                .sum()
        })
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// One move of the weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    pub(crate) settings: AdamW,
    /// Counted from 1.
    pub(crate) step: u64,
    pub(crate) learning_rate: f64,
    /// Multiplies the gradient: below 1 where it is clipped.
    pub(crate) gradient_scale: f64,
}

impl Update {
    /// Moves the weights; `decayed` are the places of those that shrink.
    pub(crate) fn apply(
        self,
        weights: &mut [f32],
        moments: &mut Moments,
        gradient: &[f32],
        decayed: &[Range<usize>],
    ) {
        let settings = self.settings;
        let (beta1, beta2) = (settings.beta1 as f32, settings.beta2 as f32);
        let correction = |beta: f64| 1.0 - beta.powf(self.step as f64);
        // Corrected for the start from 0: of both means, folded into two numbers.
        let rate = (self.learning_rate / correction(settings.beta1)) as f32;
        let root = (1.0 / correction(settings.beta2).sqrt()) as f32;
        let epsilon = settings.epsilon as f32;
        let scale = self.gradient_scale as f32;
        let kept = (1.0 - self.learning_rate * settings.weight_decay) as f32;
        weights
            .par_chunks_mut(CHUNK)
            .zip(moments.first.par_chunks_mut(CHUNK))
            .zip(moments.second.par_chunks_mut(CHUNK))
            .zip(gradient.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(number, (((weights, first), second), gradient))| {
                let here = number * CHUNK..number * CHUNK + weights.len();
                for range in decayed {
                    let start = range.start.max(here.start);
                    let end = range.end.min(here.end);
                    if start < end {
                        let decayed = &mut weights[start - here.start..end - here.start];
                        math::scale(decayed, kept);
                    }
                }
                let moments = first.iter_mut().zip(second.iter_mut());
                math::vectorised(|| {
                    for ((value, (m, v)), g) in weights.iter_mut().zip(moments).zip(gradient) {
                        let g = g * scale;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *value -= rate * *m / (v.sqrt() * root + epsilon);
                    }
                });
            });
    }
}

/// Learning rates over the steps: a linear rise to the peak, then half a cosine down.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Schedule {
    pub(crate) peak: f64,
    /// Of the last step.
    pub(crate) last: f64,
    pub(crate) n_warmup_steps: u64,
    pub(crate) n_steps: u64,
}

impl Schedule {
    /// The learning rate of a step, counted from 1.
    pub(crate) fn at(&self, step: u64) -> f64 {
        if step <= self.n_warmup_steps {
            return self.peak * step as f64 / self.n_warmup_steps as f64;
        }
        let n_down = (self.n_steps - self.n_warmup_steps).max(1) as f64;
        let share = ((step - self.n_warmup_steps) as f64 / n_down).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        self.last + (self.peak - self.last) * cosine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_to_its_peak_and_falls_to_its_end() {
        let schedule = Schedule {
            peak: 1.0,
            last: 0.1,
            n_warmup_steps: 4,
            n_steps: 14,
        };
        let rates: Vec<f64> = [1, 2, 4, 9, 14].map(|step| schedule.at(step)).to_vec();
        for (rate, expected) in rates.iter().zip([0.25, 0.5, 1.0, 0.55, 0.1]) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
        let without = Schedule {
            peak: 1.0,
            last: 0.0,
            n_warmup_steps: 0,
            n_steps: 1,
        };
        assert!(without.at(1).abs() < 1e-12);
    }

    #[test]
    fn a_step_is_that_of_the_paper() {
        let settings = AdamW {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.1,
        };
        let mut moments = Moments::new(2);
        let mut parameters = vec![1.0, 1.0];
        for step in 1..=2 {
            let gradient = [0.5, -2.0];
            let update = Update {
                settings,
                step,
                learning_rate: 0.01,
                gradient_scale: 1.0,
            };
            update.apply(
                &mut parameters,
                &mut moments,
                &gradient,
                std::slice::from_ref(&(0..1)),
            );
        }
        // A constant gradient moves by the learning rate, whatever its size.
        let shrunk = (1.0 * 0.999 - 0.01) * 0.999 - 0.01;
        assert!((parameters[0] - shrunk).abs() < 1e-6, "{parameters:?}");
        assert!((parameters[1] - 1.02).abs() < 1e-5, "{parameters:?}");
    }

    #[test]
    fn gradients_are_added_in_order() {
        let mut gradients = vec![vec![1.0; CHUNK + 3], vec![2.0; CHUNK + 3]];
        let norm = sum_gradients(&mut gradients);
        assert!((norm - 3.0 * ((CHUNK + 3) as f64).sqrt()).abs() < 1e-3);
        assert_eq!(gradients[0][CHUNK + 2], 3.0);
    }
}
