//! Floating-point numbers as integers of the same order, and back.
//!
//! Exact selection works on digits: the integer of a key, most significant digit first. Negative
//! zero equals zero; a NaN has no place, callers leave such rows out.

/// An integer with the order of the number: `a < b` exactly if `ascending(a) < ascending(b)`.
/// `None` for NaN.
#[must_use]
pub fn ascending(value: f64) -> Option<u64> {
    if value.is_nan() {
        return None;
    }
    // Adding zero turns negative zero into zero.
    let bits = (value + 0.0).to_bits();
    let sign = 1 << 63;
    Some(if bits & sign == 0 { bits | sign } else { !bits })
}

/// An integer with the reverse order of the number: the largest number comes first.
#[must_use]
pub fn descending(value: f64) -> Option<u64> {
    ascending(value).map(|bits| !bits)
}

/// The number whose [`ascending`] integer this is.
#[must_use]
pub fn from_ascending(bits: u64) -> f64 {
    let sign = 1 << 63;
    f64::from_bits(if bits & sign == 0 {
        !bits
    } else {
        bits & !sign
    })
}

/// The number whose [`descending`] integer this is.
#[must_use]
pub fn from_descending(bits: u64) -> f64 {
    from_ascending(!bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_is_kept(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(ascending(a).cmp(&ascending(b)), a.partial_cmp(&b).unwrap());
            prop_assert_eq!(descending(a).cmp(&descending(b)), b.partial_cmp(&a).unwrap());
            prop_assert_eq!(from_ascending(ascending(a).unwrap()), a);
            prop_assert_eq!(from_descending(descending(a).unwrap()), a);
        }
    }

    #[test]
    fn zeros_are_equal_and_nan_has_no_place() {
        assert_eq!(ascending(0.0), ascending(-0.0));
        assert_eq!(ascending(f64::NAN), None);
        assert!(ascending(f64::NEG_INFINITY) < ascending(f64::MIN));
        assert!(ascending(f64::MAX) < ascending(f64::INFINITY));
    }
}
