//! Numbers of 16 bits.

/// The two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    /// 8 bits of exponent, 7 of mantissa.
    Bf16,
    /// 5 bits of exponent, 10 of mantissa.
    F16,
}

/// The value of a bfloat16.
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The value of an IEEE half.
pub(crate) fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    match exponent {
        // 2^-24: the weight of a subnormal's last bit.
        0 => {
            let magnitude = mantissa as f32 * f32::from_bits(103 << 23);
            f32::from_bits(sign | magnitude.to_bits())
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

/// The nearest bfloat16, ties to even, of a finite value.
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The nearest IEEE half, ties to even, of a finite value; what is too large becomes the largest.
pub(crate) fn f16_bits(value: f32) -> u16 {
    let (sign, magnitude) = ((value.to_bits() >> 16 & 0x8000) as u16, value.abs());
    if magnitude >= 65504.0 {
        return sign | 0x7bff;
    }
    let bits = magnitude.to_bits();
    let exponent = bits >> 23;
    if exponent < 113 {
        // A subnormal half: multiples of 2^-24. Both factors are powers of two or exact.
        let units = (magnitude * 16_777_216.0).round_ties_even();
        return sign | units as u16;
    }
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    sign | ((rounded - (112 << 23)) >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        let check = |bits: u16, expect: f32| assert_eq!(from_f16(bits), expect, "{bits:#x}");
        check(0x0000, 0.0);
        check(0x3c00, 1.0);
        check(0xc000, -2.0);
        check(0x7bff, 65504.0);
        check(0x0001, 2.0_f32.powi(-24));
        check(0x03ff, 1023.0 * 2.0_f32.powi(-24));
        check(0x0400, 2.0_f32.powi(-14));
        check(0x3555, 0.333_251_95);
        check(0xfc00, f32::NEG_INFINITY);
        assert!(from_f16(0x7e00).is_nan());
        assert_eq!(from_bf16(0x3f80), 1.0);
    }

    #[test]
    fn halves_are_written_as_they_are_read() {
        for bits in 0..0x7c00 {
            assert_eq!(f16_bits(from_f16(bits)), bits);
            assert_eq!(f16_bits(-from_f16(bits)), bits | 0x8000);
        }
        for bits in 0..0x7f80 {
            assert_eq!(bf16_bits(from_bf16(bits)), bits);
        }
        assert_eq!(f16_bits(1.0 + 2.0_f32.powi(-11)), 0x3c00);
        assert_eq!(f16_bits(1e9), 0x7bff);
    }
}
