//! Whether models see the same tokens of a text: losses of other tokens cannot be compared.

use gleaner_endpoint::PromptToken;

/// The tokens that are predicted: behind the token `eos` where that was sent in front of the text,
/// else behind whatever has no likelihood.
pub(super) fn predicted(mut tokens: Vec<PromptToken>, eos: Option<&str>) -> Vec<PromptToken> {
    if let Some(eos) = eos {
        // A server may put a token of its own before that.
        let is_second = tokens
            .get(1)
            .is_some_and(|token| token.text.as_deref() == Some(eos));
        let n_leading = 1 + usize::from(is_second);
        tokens.drain(..n_leading.min(tokens.len()));
    }
    tokens.retain(|token| token.log_likelihood.is_some());
    tokens
}

/// Why the predicted tokens of servers' models, each with its name, are not the same; `None` if
/// they are, as far as the servers tell.
pub(super) fn difference(models: &[(&str, &[PromptToken])]) -> Option<String> {
    let ((first_name, first), others) = models.split_first()?;
    others.iter().find_map(|(name, tokens)| {
        let counts = [(*first_name, first.len()), (*name, tokens.len())];
        count_difference(&counts).or_else(|| {
            let pairs = first.iter().zip(*tokens).enumerate();
            let (idx, (one, other)) = pairs.into_iter().find(|(_, (a, b))| !is_same(a, b))?;
            Some(format!(
                "predicted token {idx} is {} for the model {first_name} and {} for {name}: they \
                 have different tokenizers",
                shown(one),
                shown(other)
            ))
        })
    })
}

/// Why models that each count so many predicted tokens cannot be compared; `None` if they can.
pub(super) fn count_difference(counts: &[(&str, usize)]) -> Option<String> {
    let ((first_name, first), others) = counts.split_first()?;
    let (name, other) = others.iter().find(|(_, count)| count != first)?;
    Some(format!(
        "the model {first_name} counts {first} predicted tokens and {name} counts {other}: they \
         have different tokenizers, or a token in front that the other has not"
    ))
}

fn is_same(one: &PromptToken, other: &PromptToken) -> bool {
    if let (Some(one), Some(other)) = (one.id, other.id) {
        return one == other;
    }
    match (&one.text, &other.text) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

fn shown(token: &PromptToken) -> String {
    match (&token.text, token.id) {
        (Some(text), Some(id)) => format!("{text:?} ({id})"),
        (Some(text), None) => format!("{text:?}"),
        (None, Some(id)) => id.to_string(),
        (None, None) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens of texts like `5=a` (with an id) and `a`; the first is not predicted.
    fn tokens(text: &str) -> Vec<PromptToken> {
        let tokens = text.split(' ').enumerate().map(|(idx, text)| {
            let (id, text) = match text.split_once('=') {
                Some((id, text)) => (id.parse().ok(), text),
                None => (None, text),
            };
            PromptToken {
                id,
                text: (text != "?").then(|| text.to_owned()),
                log_likelihood: (idx > 0).then_some(-1.0),
            }
        });
        tokens.collect()
    }

    #[test]
    fn what_is_predicted() {
        let check = |text: &str, eos: Option<&str>, expected: &str| {
            let found = predicted(tokens(text), eos);
            let found: Vec<String> = found.into_iter().flat_map(|it| it.text).collect();
            assert_eq!(found.join(" "), expected, "{text} {eos:?}");
        };
        check("a b c", None, "b c");
        check("<s> a b", None, "a b");
        check("a", None, "");
        check("<e> a b", Some("<e>"), "a b");
        // The first is not told of, or is the server's own.
        check("? a b", Some("<e>"), "a b");
        check("<s> <e> a b", Some("<e>"), "a b");
        check("<e>", Some("<e>"), "");
    }

    #[test]
    fn what_differs() {
        let check = |one: &str, other: &str, expected: Option<&str>| {
            let (one, other) = (tokens(one), tokens(other));
            let found = difference(&[("prior", &one), ("conditional", &other)]);
            match expected {
                Some(expected) => assert!(
                    found.clone().unwrap_or_default().contains(expected),
                    "{found:?}"
                ),
                None => assert_eq!(found, None),
            }
        };
        check("a b", "a b", None);
        check("1=a 2=b", "1=a 2=b", None);
        check("1=a 2=b", "a b", None);
        check("1=a 2=?", "a b", None);
        check(
            "a b",
            "a b c",
            Some("prior counts 2 predicted tokens and conditional counts 3"),
        );
        check(
            "a b",
            "a c",
            Some("predicted token 1 is \"b\" for the model prior and \"c\" for conditional"),
        );
        check("1=a 2=b", "1=a 3=b", Some("\"b\" (2)"));
        assert_eq!(difference(&[]), None);
        let counts = [("prior", 3), ("conditional", 3), ("other", 4)];
        let found = count_difference(&counts).unwrap_or_default();
        assert!(found.contains("prior counts 3"), "{found}");
        assert!(found.contains("other counts 4"), "{found}");
    }
}
