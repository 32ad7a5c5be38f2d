//! What a store says when it refuses: the code and the first line of the message. The rest of
//! such an answer may repeat what was signed, and with what.

use crate::redact::redact;

/// Bytes of a refusal that are read.
pub(super) const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Characters of its message that are kept.
const MESSAGE_CHARS_MAX: usize = 200;

/// The error code and the message of a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `NoSuchBucket`, `AccessDenied`, ...; empty if there is none.
    pub(crate) code: String,
    /// One line; may be empty.
    pub(crate) message: String,
    /// The region of the bucket, where the store tells it.
    pub(crate) region: Option<String>,
}

impl Refusal {
    /// Reads the XML (S3, GCS, Azure) or JSON (GCS) of a refusal, wherever in `text` it stands.
    pub(crate) fn parse(text: &str) -> Self {
        let code = element(text, "Code").or_else(|| member(text, "code"));
        let message = element(text, "Message").or_else(|| member(text, "message"));
        Self {
            code: code.map(word).unwrap_or_default(),
            message: message.map(line).unwrap_or_default(),
            region: element(text, "Region").map(word),
        }
    }

    /// The refusal as XML that [`Self::parse`] reads.
    pub(super) fn to_xml(&self) -> String {
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;");
        let mut xml = format!(
            "<Error><Code>{}</Code><Message>{}</Message>",
            escaped(&self.code),
            escaped(&self.message)
        );
        if let Some(region) = &self.region {
            xml.push_str(&format!("<Region>{}</Region>", escaped(region)));
        }
        xml.push_str("</Error>");
        xml
    }
}

fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = after.split_once(&format!("</{name}>"))?;
    Some(inside)
}

/// A member of a JSON object whose value is a text without escapes.
fn member<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = text.split_once(&format!("\"{name}\""))?;
    let value = after.trim_start().strip_prefix(':')?.trim_start();
    let (inside, _) = value.strip_prefix('"')?.split_once('"')?;
    Some(inside)
}

/// Codes and regions are words; anything else is somebody's mistake.
fn word(text: &str) -> String {
    text.chars()
        .filter(|&c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        .take(64)
        .collect()
}

fn line(text: &str) -> String {
    let text = text.trim().lines().next().unwrap_or_default();
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&");
    redact(&text.chars().take(MESSAGE_CHARS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_and_written() {
        let text = "403 Forbidden: <?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code>\
                    <Message>The signature &amp; key differ.\nmore</Message>\
                    <AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>AWS4</StringToSign></Error>";
        let refusal = Refusal::parse(text);
        assert_eq!(refusal.code, "SignatureDoesNotMatch");
        assert_eq!(refusal.message, "The signature & key differ.");
        assert_eq!(Refusal::parse(&refusal.to_xml()), refusal);
        assert!(!refusal.to_xml().contains("AKIA"));
    }

    #[test]
    fn a_region_is_kept() {
        let text = "<Error><Code>PermanentRedirect</Code><Region>eu-west-1</Region></Error>";
        let refusal = Refusal::parse(text);
        assert_eq!(refusal.region.as_deref(), Some("eu-west-1"));
        assert_eq!(Refusal::parse(&refusal.to_xml()), refusal);
    }

    #[test]
    fn json_and_nonsense() {
        let text = r#"{"error": {"code": "notFound", "message": "The bucket is gone"}}"#;
        let refusal = Refusal::parse(text);
        assert_eq!(
            (refusal.code.as_str(), refusal.message.as_str()),
            ("notFound", "The bucket is gone")
        );
        for text in ["", "<Code>", "\"code\": 12", "<html>502</html>"] {
            assert_eq!(Refusal::parse(text), Refusal::default(), "{text}");
        }
    }
}
