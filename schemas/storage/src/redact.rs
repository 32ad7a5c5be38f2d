//! Takes secrets out of texts that people and logs will see.

/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";
/// Parts of the names of parameters, headers and elements whose value is a secret.
const SECRET_NAMES: [&str; 7] = [
    "signature",
    "credential",
    "token",
    "secret",
    "password",
    "accesskeyid",
    "stringtosign",
];
/// Names that are secret as a whole; as a part of others they mean nothing.
const SECRET_WORDS: [&str; 3] = ["sig", "authorization", "canonicalrequest"];
/// Schemes whose user is no person but a container.
const CONTAINER_SCHEMES: [&str; 4] = ["abfs", "abfss", "az", "adl"];

/// The text without credentials: users and passwords of URLs, and the values of parameters
/// (`X-Amz-Signature=`, `sig=`), headers (`Authorization:`) and elements (`<SignatureProvided>`)
/// that hold secrets.
#[must_use]
pub fn redact(text: &str) -> String {
    redact_elements(&redact_values(&redact_users(text)))
}

/// Whether a URI names a user or a password, other than the container of an Azure URI.
#[must_use]
pub fn has_credentials(uri: &str) -> bool {
    user_of(uri).is_some_and(|(_, user)| is_secret_user(uri, user))
}

/// Where the user information of a URI begins, and the information.
fn user_of(uri: &str) -> Option<(usize, &str)> {
    let begin = uri.find("://")? + 3;
    let authority = &uri[begin..];
    let end = authority
        .find(|c: char| {
            c == '/' || c == '?' || c == '#' || c.is_whitespace() || "\"'<>)".contains(c)
        })
        .unwrap_or(authority.len());
    // A password may hold an @ of its own.
    let at = authority[..end].rfind('@')?;
    Some((begin, &authority[..at]))
}

fn is_secret_user(uri: &str, user: &str) -> bool {
    let scheme = uri.split("://").next().unwrap_or_default();
    let scheme = scheme
        .rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '+')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    user.contains(':') || !CONTAINER_SCHEMES.contains(&scheme.as_str())
}

fn redact_users(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("://") {
        match user_of(rest) {
            Some((at, user)) if is_secret_user(rest, user) => {
                redacted.push_str(&rest[..at]);
                redacted.push_str(REDACTED);
                rest = &rest[at + user.len()..];
            }
            _ => {
                redacted.push_str(&rest[..begin + 3]);
                rest = &rest[begin + 3..];
            }
        }
    }
    redacted.push_str(rest);
    redacted
}

/// The text with `*` over the credentials in URIs: places in it stay where they are.
#[must_use]
pub fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(begin) = rest.find("://") {
        let mut at = begin + 3;
        masked.push_str(&rest[..at]);
        if let Some((_, user)) = user_of(rest).filter(|(_, user)| is_secret_user(rest, user)) {
            masked.push_str(&"*".repeat(user.len()));
            at += user.len();
        }
        rest = &rest[at..];
        let end = rest
            .find(|c: char| c.is_whitespace() || "\"'<>,]}".contains(c))
            .unwrap_or(rest.len());
        let (uri, after) = rest.split_at(end);
        match uri.split_once('?') {
            Some((path, query)) if query.contains('=') => {
                masked.push_str(path);
                masked.push('?');
                masked.push_str(&"*".repeat(query.len()));
            }
            _ => masked.push_str(uri),
        }
        rest = after;
    }
    masked.push_str(rest);
    masked
}

fn is_secret_name(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SECRET_WORDS.contains(&name.as_str()) || SECRET_NAMES.iter().any(|part| name.contains(part))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Values after `name=` up to the end of the parameter, and after `name:` up to the end of the line.
fn redact_values(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(sign) = rest.find(['=', ':']) {
        let is_header = rest[sign..].starts_with(':');
        let before = &rest[..sign];
        let name = &before[before.trim_end_matches(is_name).len()..];
        let value = &rest[sign + 1..];
        redacted.push_str(&rest[..=sign]);
        rest = value;
        if !is_secret_name(name) || value.starts_with("//") {
            continue;
        }
        // Prose has colons too: "signature does not match: ..." is no header.
        let is_prose = is_header && before.trim_end_matches(is_name).ends_with(' ');
        if is_prose && !name.eq_ignore_ascii_case("authorization") {
            continue;
        }
        let end = if is_header {
            value.find(['\n', '\r'])
        } else {
            value.find(|c: char| c.is_whitespace() || "&\"'<>),;".contains(c))
        };
        if is_header {
            redacted.push(' ');
        }
        redacted.push_str(REDACTED);
        rest = &value[end.unwrap_or(value.len())..];
    }
    redacted.push_str(rest);
    redacted
}

fn redact_elements(text: &str) -> String {
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        let (before, tag) = rest.split_at(open + 1);
        redacted.push_str(before);
        rest = tag;
        let Some(close) = tag.find('>') else { continue };
        let name = &tag[..close];
        let closing = format!("</{name}>");
        if let Some(end) = tag.find(&closing).filter(|_| is_secret_name(name)) {
            redacted.push_str(name);
            redacted.push('>');
            redacted.push_str(REDACTED);
            rest = &tag[end..];
        }
    }
    redacted.push_str(rest);
    redacted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let cases = [
            (
                "GET https://u:hunter2@host/a?b=c failed",
                "GET https://[redacted]@host/a?b=c failed",
            ),
            ("https://u:p@ss@host:80/", "https://[redacted]@host:80/"),
            (
                "\"https://ghp_token@host/x\"",
                "\"https://[redacted]@host/x\"",
            ),
            (
                "abfss://container@account.dfs.core.windows.net/x",
                "abfss://container@account.dfs.core.windows.net/x",
            ),
            ("abfss://c:pw@account/x", "abfss://[redacted]@account/x"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            (
                "http://h/k?X-Amz-Credential=AKIA%2F1&X-Amz-Date=2&X-Amz-Signature=abc in 2s",
                "http://h/k?X-Amz-Credential=[redacted]&X-Amz-Date=2&X-Amz-Signature=[redacted] in 2s",
            ),
            (
                "https://a.blob/c?sv=1&sig=ab%3D&se=2 ",
                "https://a.blob/c?sv=1&sig=[redacted]&se=2 ",
            ),
            (
                "?x-amz-security-token=abc",
                "?x-amz-security-token=[redacted]",
            ),
            (
                "Authorization: AWS4 Credential=a, Signature=b\nHost: h",
                "Authorization: [redacted]\nHost: h",
            ),
            (
                "the header authorization: Bearer x",
                "the header authorization: [redacted]",
            ),
            (
                "<Code>X</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>a\nb</StringToSign>",
                "<Code>X</Code><AWSAccessKeyId>[redacted]</AWSAccessKeyId><StringToSign>[redacted]</StringToSign>",
            ),
            (
                "the signature: it does not match",
                "the signature: it does not match",
            ),
            ("a=b, design=c, 1:2", "a=b, design=c, 1:2"),
            ("unclosed <tag and ü=€", "unclosed <tag and ü=€"),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text), expected);
            assert_eq!(redact(expected), expected, "once is enough");
        }
    }

    #[test]
    fn masks_keep_places() {
        let text =
            "output: 'https://u:pä@host/x'\npaths: [https://h/a?sig=b%3D, s3://b/x?.parquet]\n";
        let expected =
            "output: 'https://*****@host/x'\npaths: [https://h/a?********, s3://b/x?.parquet]\n";
        assert_eq!(mask(text), expected);
        assert_eq!(mask(text).len(), text.len());
    }

    #[test]
    fn credentials_in_a_uri_are_seen() {
        assert!(has_credentials("https://u:p@h/x"));
        assert!(has_credentials("s3://key@bucket/x"));
        assert!(!has_credentials("abfss://c@a.dfs.core.windows.net"));
        assert!(!has_credentials("https://h/a@b"));
        assert!(!has_credentials("data/a@b.parquet"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_taken(text in "\\PC{0,60}") {
            let _ = redact(&text);
        }

        #[test]
        fn no_password_survives(password in "[a-z0-9:@+=%._-]{5,20}") {
            let text = format!("cannot read https://user:{password}@host/x: refused");
            proptest::prop_assert!(!redact(&text).contains(&password));
        }
    }
}
