//! Products of rows with the weights of a model, on one thread: `y = x W^T`, `y += x W^T`.
//!
//! A [`Matrix`] keeps its weights in panels of [`PANEL`] outputs, input by input, so that a kernel
//! reads them in one stream. Where the processor has AVX-512 the kernels are our own
//! ([`avx512`]); elsewhere each panel is a product of the `gemm` crate
//! ([`crate::matrix`]).

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::half::{Half, bf16_bits, f16_bits, from_bf16, from_f16};
use crate::matrix::{self, Into, MatrixMut, multiply};

/// Outputs of one panel.
pub(crate) const PANEL: usize = 64;

/// How weights are kept in memory and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WeightType {
    /// f32, multiplied in f32: the reference.
    #[default]
    F32,
    /// Rounded to bfloat16. Where the processor has AVX512_BF16 the rows are rounded too and
    /// products summed in f32, at twice the speed of f32; elsewhere this saves memory only.
    Bf16,
    /// Rounded to half precision and multiplied in f32: saves memory only.
    F16,
}

/// The weights of one product.
#[derive(Debug)]
pub(crate) struct Matrix {
    n_in: usize,
    n_out: usize,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    /// `[panel][input][PANEL]`
    F32(Vec<f32>),
    /// The same, as bits of a half.
    Half(Vec<u16>, Half),
    /// `[panel][pair of inputs][PANEL][2]`, as bits of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Bf16Pairs(Vec<u16>),
}

/// What the kernels of a thread need beside rows and weights.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    panel: Vec<f32>,
    rows: Vec<u16>,
}

impl Scratch {
    /// Bytes it grows to for products of up to `n_in` inputs and `n_rows` rows.
    pub(crate) fn bytes(weights: WeightType, n_in: usize, n_rows: usize) -> usize {
        match weights {
            WeightType::F32 => 0,
            WeightType::Bf16 if has_bf16() => n_rows * n_in.next_multiple_of(2) * 2,
            _ => n_in * PANEL * 4,
        }
    }
}

impl Matrix {
    /// From parts `[n_out_i, n_in]`, row-major, that lie under each other.
    pub(crate) fn new(n_in: usize, parts: &[&[f32]], weights: WeightType) -> Self {
        let rows = || parts.iter().flat_map(|part| part.chunks_exact(n_in));
        let n_out = rows().count();
        let n_panels = n_out.div_ceil(PANEL);
        let place =
            |output: usize, input: usize| (output / PANEL * n_in + input) * PANEL + output % PANEL;
        let half = |half: Half, bits: fn(f32) -> u16| {
            let mut panels = vec![0; n_panels * n_in * PANEL];
            for (output, row) in rows().enumerate() {
                for (input, &weight) in row.iter().enumerate() {
                    panels[place(output, input)] = bits(weight);
                }
            }
            Storage::Half(panels, half)
        };
        let storage = match weights {
            WeightType::F32 => {
                let mut panels = vec![0.0; n_panels * n_in * PANEL];
                for (output, row) in rows().enumerate() {
                    for (input, &weight) in row.iter().enumerate() {
                        panels[place(output, input)] = weight;
                    }
                }
                Storage::F32(panels)
            }
            #[cfg(target_arch = "x86_64")]
            WeightType::Bf16 if has_bf16() => {
                let n_pairs = n_in.div_ceil(2);
                let mut panels = vec![0; n_panels * n_pairs * PANEL * 2];
                for (output, row) in rows().enumerate() {
                    for (input, &weight) in row.iter().enumerate() {
                        let pair = output / PANEL * n_pairs + input / 2;
                        let place = (pair * PANEL + output % PANEL) * 2 + input % 2;
                        panels[place] = bf16_bits(weight);
                    }
                }
                Storage::Bf16Pairs(panels)
            }
            WeightType::Bf16 => half(Half::Bf16, bf16_bits),
            WeightType::F16 => half(Half::F16, f16_bits),
        };
        Self {
            n_in,
            n_out,
            storage,
        }
    }

    /// Bytes of a matrix in memory.
    pub(crate) fn bytes(n_in: usize, n_out: usize, weights: WeightType) -> u64 {
        let element = if weights == WeightType::F32 { 4 } else { 2 };
        n_out.next_multiple_of(PANEL) as u64 * n_in.next_multiple_of(2) as u64 * element
    }

    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    pub(crate) fn n_in(&self) -> usize {
        self.n_in
    }

    /// Output `output` of input `input`, for the embedding of a tied head.
    pub(crate) fn row(&self, output: usize, row: &mut [f32]) {
        let at = |input: usize| (output / PANEL * self.n_in + input) * PANEL + output % PANEL;
        for (input, value) in row.iter_mut().enumerate() {
            *value = match &self.storage {
                Storage::F32(panels) => panels[at(input)],
                Storage::Half(panels, Half::Bf16) => from_bf16(panels[at(input)]),
                Storage::Half(panels, Half::F16) => from_f16(panels[at(input)]),
                #[cfg(target_arch = "x86_64")]
                Storage::Bf16Pairs(panels) => {
                    let pair = output / PANEL * self.n_in.div_ceil(2) + input / 2;
                    from_bf16(panels[(pair * PANEL + output % PANEL) * 2 + input % 2])
                }
            };
        }
    }

    /// `y = x W^T`, or `y += x W^T`, for `n_rows` rows: `x` has rows of `n_in` values every
    /// `x_stride`, `y` rows of `n_out` every `y_stride`.
    #[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
    pub(crate) fn multiply(
        &self,
        n_rows: usize,
        x: &[f32],
        x_stride: usize,
        y: &mut [f32],
        y_stride: usize,
        add: bool,
        scratch: &mut Scratch,
    ) {
        let outputs = 0..self.n_out;
        self.multiply_block(outputs, n_rows, x, x_stride, y, y_stride, add, scratch);
    }

    /// As [`Matrix::multiply`], of some outputs only; they begin at a panel.
    #[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
    pub(crate) fn multiply_block(
        &self,
        outputs: std::ops::Range<usize>,
        n_rows: usize,
        x: &[f32],
        x_stride: usize,
        y: &mut [f32],
        y_stride: usize,
        add: bool,
        scratch: &mut Scratch,
    ) {
        assert!(outputs.start.is_multiple_of(PANEL) && outputs.end <= self.n_out);
        if n_rows == 0 || outputs.is_empty() {
            return;
        }
        let width = outputs.len();
        assert!(x_stride >= self.n_in && x.len() >= (n_rows - 1) * x_stride + self.n_in);
        assert!(y_stride >= width && y.len() >= (n_rows - 1) * y_stride + width);
        let panels = outputs.start / PANEL..outputs.end.div_ceil(PANEL);
        #[cfg(target_arch = "x86_64")]
        if let Storage::Bf16Pairs(weights) = &self.storage {
            let n_pairs = self.n_in.div_ceil(2);
            scratch.rows.resize(n_rows * n_pairs * 2, 0);
            for (row, bits) in scratch.rows.chunks_exact_mut(n_pairs * 2).enumerate() {
                avx512::round_row(&x[row * x_stride..][..self.n_in], bits);
            }
            let size = n_pairs * PANEL * 2;
            for (panel_idx, panel) in panels.enumerate() {
                let columns = panel_idx * PANEL..width.min((panel_idx + 1) * PANEL);
                let weights = &weights[panel * size..][..size];
                let target = &mut y[columns.start..];
                let rows = &scratch.rows;
                avx512::bf16_panel(
                    rows,
                    n_pairs,
                    weights,
                    target,
                    y_stride,
                    columns.len(),
                    n_rows,
                    add,
                );
            }
            return;
        }
        let size = self.n_in * PANEL;
        for (panel_idx, panel) in panels.enumerate() {
            let columns = panel_idx * PANEL..width.min((panel_idx + 1) * PANEL);
            let range = panel * size..(panel + 1) * size;
            let weights = match &self.storage {
                Storage::F32(panels) => &panels[range],
                Storage::Half(panels, half) => {
                    scratch.panel.clear();
                    let bits = panels[range].iter();
                    match half {
                        Half::Bf16 => scratch.panel.extend(bits.map(|&bits| from_bf16(bits))),
                        Half::F16 => scratch.panel.extend(bits.map(|&bits| from_f16(bits))),
                    }
                    &scratch.panel
                }
                #[cfg(target_arch = "x86_64")]
                Storage::Bf16Pairs(_) => return,
            };
            let target = &mut y[columns.start..];
            panel_f32(
                x,
                x_stride,
                self.n_in,
                weights,
                PANEL,
                target,
                y_stride,
                columns.len(),
                n_rows,
                add,
            );
        }
    }
}

/// `y (+)= x B` for `B` of `n_in` rows of [`PANEL`] (or `width`) values every `b_stride`.
#[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
pub(crate) fn panel_f32(
    x: &[f32],
    x_stride: usize,
    n_in: usize,
    b: &[f32],
    b_stride: usize,
    y: &mut [f32],
    y_stride: usize,
    width: usize,
    n_rows: usize,
    add: bool,
) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() && b.len() >= (n_in - 1) * b_stride + PANEL {
        avx512::f32_panel(
            x, x_stride, n_in, b, b_stride, y, y_stride, width, n_rows, add,
        );
        return;
    }
    let into = if add { Into::Add } else { Into::Replace };
    multiply(
        MatrixMut::strided(y, n_rows, width, y_stride),
        into,
        1.0,
        matrix::Matrix::strided(x, n_rows, n_in, x_stride),
        matrix::Matrix::strided(b, n_in, width, b_stride),
    );
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn has_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn has_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn products_of_all_sizes() {
        let check = |n_rows: usize, n_in: usize, n_out: usize, weights: WeightType, close: f64| {
            let (x, w) = (numbers(n_rows * (n_in + 3), 1), numbers(n_out * n_in, 2));
            let half = n_out / 2 * n_in;
            let matrix = Matrix::new(n_in, &[&w[..half], &w[half..]], weights);
            let stride = n_out + 5;
            for add in [false, true] {
                let mut y = vec![7.0; n_rows * stride];
                let mut scratch = Scratch::default();
                matrix.multiply(n_rows, &x, n_in + 3, &mut y, stride, add, &mut scratch);
                for row in 0..n_rows {
                    for column in 0..stride {
                        let exact: f64 = match column < n_out {
                            true => {
                                (0..n_in)
                                    .map(|i| {
                                        f64::from(x[row * (n_in + 3) + i])
                                            * f64::from(w[column * n_in + i])
                                    })
                                    .sum::<f64>()
                                    + if add { 7.0 } else { 0.0 }
                            }
                            false => 7.0,
                        };
                        let found = f64::from(y[row * stride + column]);
                        assert!(
                            (found - exact).abs() < close,
                            "{n_rows} x {n_in} x {n_out} {weights:?} {add}: {row},{column}: {found}, not {exact}"
                        );
                    }
                }
            }
            let mut row = vec![0.0; n_in];
            matrix.row(n_out - 1, &mut row);
            let last = &w[(n_out - 1) * n_in..];
            assert!(row.iter().zip(last).all(|(a, b)| (a - b).abs() < 0.01));
        };
        for (n_rows, n_in, n_out) in [
            (1, 1, 1),
            (6, 64, 64),
            (7, 65, 63),
            (13, 33, 130),
            (12, 2050, 96),
        ] {
            check(n_rows, n_in, n_out, WeightType::F32, 1e-4);
            check(n_rows, n_in, n_out, WeightType::Bf16, 0.5);
            check(n_rows, n_in, n_out, WeightType::F16, 0.05);
        }
    }
}
