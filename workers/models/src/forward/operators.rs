//! Operators on rows, written so that the compiler vectorises them; [`vectorised`] runs them with
//! the widest instructions that the processor has.
//!
//! Not-a-number and infinity pass through all of them: a broken row is seen in its losses.

use std::f32::consts::FRAC_1_SQRT_2;

use crate::architecture::{Activation, Norm, NormKind};
use crate::scalar::{erfc, exp, vectorised};

/// Values that are handled side by side.
const LANES: usize = 16;

#[inline(always)]
fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + exp(-x)),
        Activation::GeluTanh => {
            // sqrt(2 / pi)
            let u = 0.797_884_6 * (x + 0.044_715 * x * x * x);
            x / (1.0 + exp(-2.0 * u))
        }
        Activation::Gelu => {
            let tail = 0.5 * erfc(x.abs() * FRAC_1_SQRT_2);
            x * if x < 0.0 { tail } else { 1.0 - tail }
        }
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
    }
}

/// `row[i] = activation(row[i])`, and with a gate `row[i] = activation(row[i]) * row[n + i]` for
/// the `n` first of each row.
pub(crate) fn activate_rows(
    activation: Activation,
    gated: bool,
    rows: &mut [f32],
    stride: usize,
    n: usize,
) {
    #[inline(always)]
    fn run(gated: bool, rows: &mut [f32], stride: usize, n: usize, f: impl Fn(f32) -> f32) {
        for row in rows.chunks_exact_mut(stride) {
            if gated {
                let (gate, up) = row.split_at_mut(n);
                gate.iter_mut()
                    .zip(up)
                    .for_each(|(gate, up)| *gate = f(*gate) * *up);
            } else {
                row[..n].iter_mut().for_each(|x| *x = f(*x));
            }
        }
    }
    macro_rules! with {
        ($kind:ident) => {
            vectorised(
                #[inline(always)]
                || run(gated, rows, stride, n, |x| activate(Activation::$kind, x)),
            )
        };
    }
    match activation {
        Activation::Silu => with!(Silu),
        Activation::Gelu => with!(Gelu),
        Activation::GeluTanh => with!(GeluTanh),
        Activation::Relu => with!(Relu),
    }
}

/// The sum of `f` over values, in [`LANES`] sums.
#[inline(always)]
pub(crate) fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += f(*value);
        }
    }
    let rest: f32 = rest.iter().map(|value| f(*value)).sum();
    sums.iter().sum::<f32>() + rest
}

/// The largest value; NaN only if all are.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let (blocks, rest) = values.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (most, value) in largest.iter_mut().zip(block) {
            *most = if *value > *most { *value } else { *most };
        }
    }
    let all = largest.iter().chain(rest);
    all.fold(
        f32::NEG_INFINITY,
        |most, value| if *value > most { *value } else { most },
    )
}

/// The sum of `e^(scale (x - shift))`; writes the summands if `write`.
#[inline(always)]
pub(crate) fn exp_sum(values: &mut [f32], scale: f32, shift: f32) -> f32 {
    let (blocks, rest) = values.as_chunks_mut::<LANES>();
    let mut sums = [0.0; LANES];
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *value = exp(scale * (*value - shift));
            *sum += *value;
        }
    }
    let mut total = 0.0;
    for value in rest {
        *value = exp(scale * (*value - shift));
        total += *value;
    }
    sums.iter().sum::<f32>() + total
}

/// The same without writing.
#[inline(always)]
pub(crate) fn exp_sum_of(values: &[f32], shift: f32) -> f32 {
    sum(values, |value| exp(value - shift))
}

/// Normalises `source` into `target`; weight and bias may be empty.
#[inline(always)]
fn normalise(norm: Norm, source: &[f32], weight: &[f32], bias: &[f32], target: &mut [f32]) {
    let n = source.len() as f32;
    let mean = match norm.kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => sum(source, |x| x) / n,
    };
    let variance = sum(source, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + norm.eps).sqrt();
    for (target, source) in target.iter_mut().zip(source) {
        *target = (source - mean) * scale;
    }
    if !weight.is_empty() {
        target
            .iter_mut()
            .zip(weight)
            .for_each(|(x, weight)| *x *= weight);
    }
    if !bias.is_empty() {
        target.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
    }
}

/// Normalises rows of `width` into rows of the same stride.
pub(crate) fn normalise_rows(
    norm: Norm,
    source: &[f32],
    weight: &[f32],
    bias: &[f32],
    target: &mut [f32],
    width: usize,
) {
    vectorised(
        #[inline(always)]
        || {
            let rows = source
                .chunks_exact(width)
                .zip(target.chunks_exact_mut(width));
            rows.for_each(|(source, target)| normalise(norm, source, weight, bias, target));
        },
    );
}

/// Adds the normalised rows of `source` to `target`; `row` is for one of them.
pub(crate) fn add_normalised_rows(
    norm: Norm,
    source: &[f32],
    weight: &[f32],
    bias: &[f32],
    target: &mut [f32],
    row: &mut [f32],
) {
    let width = row.len();
    vectorised(
        #[inline(always)]
        || {
            let rows = source
                .chunks_exact(width)
                .zip(target.chunks_exact_mut(width));
            for (source, target) in rows {
                normalise(norm, source, weight, bias, row);
                target.iter_mut().zip(&*row).for_each(|(x, y)| *x += y);
            }
        },
    );
}

/// Normalises `heads` in place by RMS, each chunk of `weight.len()` by itself.
pub(crate) fn normalise_heads(eps: f32, weight: &[f32], heads: &mut [f32]) {
    vectorised(
        #[inline(always)]
        || {
            for head in heads.chunks_exact_mut(weight.len()) {
                let mean_square = sum(head, |x| x * x) / head.len() as f32;
                let scale = 1.0 / (mean_square + eps).sqrt();
                head.iter_mut()
                    .zip(weight)
                    .for_each(|(x, weight)| *x = *x * scale * weight);
            }
        },
    );
}

/// Adds a bias to the first `bias.len()` values of each row.
pub(crate) fn add_bias(bias: &[f32], rows: &mut [f32], stride: usize) {
    if bias.is_empty() {
        return;
    }
    vectorised(
        #[inline(always)]
        || {
            for row in rows.chunks_exact_mut(stride) {
                row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
        },
    );
}

/// Turns the first `2 * cosines.len()` values of each head.
pub(crate) fn rotate_heads(heads: &mut [f32], head_dim: usize, cosines: &[f32], sines: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            let half = cosines.len();
            for head in heads.chunks_exact_mut(head_dim) {
                let (first, rest) = head.split_at_mut(half);
                let pairs = first.iter_mut().zip(&mut rest[..half]);
                for ((a, b), (cos, sin)) in pairs.zip(cosines.iter().zip(sines)) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_against_f64() {
        // erf by its series and by its continued fraction, in f64.
        let erf = |z: f64| {
            let mut term = z;
            let mut total = z;
            for n in 1..200 {
                term *= -z * z / n as f64;
                total += term / (2 * n + 1) as f64;
            }
            total * 2.0 / std::f64::consts::PI.sqrt()
        };
        for i in -4000..4000 {
            let x = i as f32 * 1e-3;
            let z = f64::from(x);
            let check = |activation: Activation, exact: f64| {
                let found = f64::from(activate(activation, x));
                assert!(
                    (found - exact).abs() < 6e-7,
                    "{activation:?}({x}) = {found}, not {exact}"
                );
            };
            check(Activation::Silu, z / (1.0 + (-z).exp()));
            check(Activation::Gelu, z / 2.0 * (1.0 + erf(z / 2.0_f64.sqrt())));
            let u = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3));
            check(Activation::GeluTanh, z / 2.0 * (1.0 + u.tanh()));
            check(Activation::Relu, z.max(0.0));
        }
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            assert_eq!(activate(activation, 50.0), 50.0);
            assert!(activate(activation, -200.0).abs() < 1e-30);
            assert!(activate(activation, f32::NAN).is_nan());
        }
    }
}
