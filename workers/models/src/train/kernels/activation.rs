//! The non-linear functions of the feed-forward part, with and without a gate.

use super::math::{self, sigmoid, tanh};
use crate::architecture::Activation;
use crate::scalar::{erf, exp};

const SQRT_2_BY_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// Value and derivative.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let share = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let density = 0.398_942_3 * exp(-0.5 * x * x);
    (x * share, share + x * density)
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let t = tanh(SQRT_2_BY_PI * (x + CUBIC * x * x * x));
    let inner = SQRT_2_BY_PI * (1.0 + 3.0 * CUBIC * x * x);
    let share = 0.5 * (1.0 + t);
    (x * share, share + 0.5 * x * (1.0 - t * t) * inner)
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0 * x, 0.0) }
}

/// `out = f(input)`, or `f(input) * up` where there is a gate.
pub(crate) fn forward(f: Activation, input: &[f32], up: Option<&[f32]>, out: &mut [f32]) {
    math::vectorised(|| match f {
        Activation::Silu => forward_with(silu, input, up, out),
        Activation::Gelu => forward_with(gelu, input, up, out),
        Activation::GeluTanh => forward_with(gelu_tanh, input, up, out),
        Activation::Relu => forward_with(relu, input, up, out),
    });
}

#[inline(always)]
fn forward_with(f: impl Fn(f32) -> (f32, f32), input: &[f32], up: Option<&[f32]>, out: &mut [f32]) {
    match up {
        None => {
            for (y, x) in out.iter_mut().zip(input) {
                *y = f(*x).0;
            }
        }
        Some(up) => {
            for (y, (x, up)) in out.iter_mut().zip(input.iter().zip(up)) {
                *y = f(*x).0 * up;
            }
        }
    }
}

/// Adds to the gradients of the input and, where there is a gate, of `up`.
pub(crate) fn backward(
    f: Activation,
    input: &[f32],
    d_out: &[f32],
    d_input: &mut [f32],
    up: Option<(&[f32], &mut [f32])>,
) {
    math::vectorised(|| match f {
        Activation::Silu => backward_with(silu, input, d_out, d_input, up),
        Activation::Gelu => backward_with(gelu, input, d_out, d_input, up),
        Activation::GeluTanh => backward_with(gelu_tanh, input, d_out, d_input, up),
        Activation::Relu => backward_with(relu, input, d_out, d_input, up),
    });
}

#[inline(always)]
fn backward_with(
    f: impl Fn(f32) -> (f32, f32),
    input: &[f32],
    d_out: &[f32],
    d_input: &mut [f32],
    up: Option<(&[f32], &mut [f32])>,
) {
    let inputs = input.iter().zip(d_out).zip(d_input.iter_mut());
    match up {
        None => {
            for ((x, dy), dx) in inputs {
                *dx += dy * f(*x).1;
            }
        }
        Some((up, d_up)) => {
            for (((x, dy), dx), (up, d_up)) in inputs.zip(up.iter().zip(d_up.iter_mut())) {
                let (value, slope) = f(*x);
                *dx += dy * up * slope;
                *d_up += dy * value;
            }
        }
    }
}
