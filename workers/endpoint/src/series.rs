//! Which sendings of a request a provider is to take for one. Providers that heed `Idempotency-Key`
//! give the answer again that they gave to the same key, whatever it was, and charge for it once.

use crate::failure::FailureClass;

/// Throttling answers to one key after which another one is tried: a provider may have kept them.
const THROTTLED_MAX: u32 = 16;

/// The sendings of a request under one key. It is carried from process to process, since who comes
/// after one that died must ask under the key of what may be paid for already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Series {
    /// Number of the first sending of it, which its key ends with; the first series has none.
    pub number: Option<u32>,
    /// Whether a sending of it has no answer: the server may be at work on it, or be done.
    pub may_be_at_work: bool,
    /// Whether the server has answered all of it, with what is no reply: the next sending is another
    /// request to it.
    pub is_over: bool,
    /// Answers in a row that asked to wait.
    pub n_throttled: u32,
}

impl Series {
    /// The series after a sending that failed. `is_answer` tells whether the server has answered,
    /// `is_about_schema` that it did so because of how JSON was asked for: the key tells that anyway.
    #[must_use]
    pub(crate) fn after(self, class: FailureClass, is_answer: bool, is_about_schema: bool) -> Self {
        if !is_answer {
            // Nothing reached a server that cannot be connected to.
            let may_be_at_work = self.may_be_at_work || class != FailureClass::TimeoutConnect;
            return Self {
                may_be_at_work,
                n_throttled: 0,
                ..self
            };
        }
        if is_about_schema {
            return self;
        }
        // Who has too much to do answers before it looks at keys, mostly; what was not answered may be
        // done all the same, and is paid for once only under the same key.
        if class.is_throttling() && self.may_be_at_work && self.n_throttled < THROTTLED_MAX {
            return Self {
                n_throttled: self.n_throttled + 1,
                ..self
            };
        }
        Self {
            is_over: true,
            ..self
        }
    }

    /// The series of the next sending, which has this number.
    #[must_use]
    pub fn at(self, number: u32) -> Self {
        if !self.is_over {
            return self;
        }
        Self {
            number: Some(number),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_ends_with_an_answer() {
        let first = Series::default();
        let refused = first.after(FailureClass::ServerError, true, false);
        assert_eq!(refused.at(3).number, Some(3));
        assert_eq!(refused.at(3).at(4).number, Some(3));
        let reset = first.after(FailureClass::ConnectionReset, false, false);
        assert_eq!(reset.at(3).number, None);
        // It was not done before it was refused.
        let throttled = first.after(FailureClass::RateLimited, true, false);
        assert_eq!(throttled.at(1).number, Some(1));
    }

    #[test]
    fn what_may_be_at_work_keeps_its_key_while_the_server_has_too_much_to_do() {
        let reset = Series::default().after(FailureClass::ConnectionReset, false, false);
        let throttled = reset.after(FailureClass::Overloaded, true, false);
        assert_eq!(throttled.at(2).number, None);
        let refused = throttled.after(FailureClass::ServerError, true, false);
        assert_eq!(refused.at(3).number, Some(3));
        assert!(!refused.at(3).may_be_at_work);
        // One that keeps such an answer under the key would give it for ever.
        let after = |series: Series, _| series.after(FailureClass::RateLimited, true, false);
        assert!(!(0..16).fold(reset, after).is_over);
        assert!((0..17).fold(reset, after).is_over);
        let unreached = Series::default().after(FailureClass::TimeoutConnect, false, false);
        assert_eq!(unreached, Series::default());
    }

    #[test]
    fn another_dialect_has_a_key_of_its_own_anyway() {
        let series = Series {
            number: Some(2),
            ..Series::default()
        };
        assert_eq!(series.after(FailureClass::BadRequest, true, true), series);
    }
}
