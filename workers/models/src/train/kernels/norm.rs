//! RMS and layer normalisation, over groups of the last dimension.

use super::math;
use crate::architecture::NormKind;

/// Normalises every group of `width` values; keeps `(mean, 1 / deviation)` per group in `stats`.
pub(crate) fn forward(
    (kind, eps): (NormKind, f32),
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    input: &[f32],
    out: &mut [f32],
    stats: &mut [f32],
) {
    let groups = input.chunks_exact(width).zip(out.chunks_exact_mut(width));
    let groups = groups.zip(stats.chunks_exact_mut(2));
    math::vectorised(|| {
        for ((x, y), stats) in groups {
            let mean = match kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => math::sum(x) / width as f32,
            };
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let inverse = 1.0 / (math::dot(y, y) / width as f32 + eps).sqrt();
            stats.copy_from_slice(&[mean, inverse]);
            math::scale(y, inverse);
            if let Some(weight) = weight {
                for (y, w) in y.iter_mut().zip(weight) {
                    *y *= w;
                }
            }
            if let Some(bias) = bias {
                math::add(y, bias);
            }
        }
    });
}

/// Adds to the gradients of input, weight and bias.
#[expect(
    clippy::too_many_arguments,
    reason = "what forward has, and the gradients"
)]
pub(crate) fn backward(
    kind: NormKind,
    width: usize,
    weight: Option<&[f32]>,
    input: &[f32],
    stats: &[f32],
    d_out: &[f32],
    d_input: &mut [f32],
    mut d_weight: Option<&mut [f32]>,
    mut d_bias: Option<&mut [f32]>,
    scratch: &mut Vec<f32>,
) {
    scratch.resize(2 * width, 0.0);
    let (normal, d_normal) = scratch.split_at_mut(width);
    let groups = input.chunks_exact(width).zip(d_out.chunks_exact(width));
    let groups = groups.zip(d_input.chunks_exact_mut(width));
    let groups = groups.zip(stats.chunks_exact(2));
    math::vectorised(|| {
        for (((x, dy), dx), stats) in groups {
            let (mean, inverse) = (stats[0], stats[1]);
            for (normal, x) in normal.iter_mut().zip(x) {
                *normal = (x - mean) * inverse;
            }
            d_normal.copy_from_slice(dy);
            if let Some(weight) = weight {
                for (d, w) in d_normal.iter_mut().zip(weight) {
                    *d *= w;
                }
            }
            if let Some(d_weight) = d_weight.as_deref_mut() {
                for (dw, (dy, normal)) in d_weight.iter_mut().zip(dy.iter().zip(&*normal)) {
                    *dw += dy * normal;
                }
            }
            if let Some(d_bias) = d_bias.as_deref_mut() {
                math::add(d_bias, dy);
            }
            let along = math::dot(d_normal, normal) / width as f32;
            let shift = match kind {
                NormKind::Rms => 0.0,
                NormKind::Layer => math::sum(d_normal) / width as f32,
            };
            for (dx, (d, normal)) in dx.iter_mut().zip(d_normal.iter().zip(&*normal)) {
                *dx += (d - shift - normal * along) * inverse;
            }
        }
    });
}
