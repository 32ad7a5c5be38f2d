//! The file of a prompt, taken apart.

use super::template::PromptError;

/// Longest name of a prompt, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Digits of the hash in a prompt's id.
const HASH_DIGITS: usize = 8;
/// What precedes the templates.
const MARKS: [(&str, &str); 2] = [("system", "--- system"), ("user", "--- user")];

/// A prompt's text, taken apart.
#[derive(Debug)]
pub(super) struct PromptFile {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) system: Section,
    pub(super) user: Section,
}

#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    /// Line of the file on which the template begins.
    pub(super) first_line: usize,
    pub(super) text: String,
}

impl Section {
    pub(super) fn error(&self, error: &minijinja::Error) -> PromptError {
        PromptError::Template {
            line: self.first_line + error.line().unwrap_or(1) - 1,
            detail: match error.detail() {
                Some(detail) => format!("{}: {detail}", error.kind()),
                None => error.kind().to_string(),
            },
        }
    }

    pub(super) fn line_of(&self, word: &str) -> usize {
        let index = self.text.lines().position(|line| line.contains(word));
        self.first_line + index.unwrap_or_default()
    }
}

impl PromptFile {
    pub(super) fn split(text: &str) -> Result<Self, PromptError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (mut name, mut version) = (None, None);
        let mut sections: Vec<Section> = Vec::with_capacity(MARKS.len());
        for (line, content) in (1..).zip(text.lines()) {
            let expected_mark = MARKS.get(sections.len());
            if let Some((section, mark)) = expected_mark
                && content.trim_end() == *mark
            {
                let first_line = line + 1;
                sections.push(Section {
                    name: section,
                    first_line,
                    text: String::new(),
                });
                continue;
            }
            match sections.last_mut() {
                Some(section) => {
                    section.text.push_str(content);
                    section.text.push('\n');
                }
                None => read_header(line, content, &mut name, &mut version)?,
            }
        }
        let mut sections = sections.into_iter();
        let mut section = |what| {
            sections
                .next()
                .filter(|section| !section.text.trim().is_empty())
                .ok_or(PromptError::Missing { what })
        };
        Ok(Self {
            system: section(MARKS[0].1)?,
            user: section(MARKS[1].1)?,
            name: name.ok_or(PromptError::Missing { what: "name:" })?,
            version: version.ok_or(PromptError::Missing { what: "version:" })?,
        })
    }

    pub(super) fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for field in [&self.name, &self.system.text, &self.user.text] {
            hasher.update(&(field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.update(&self.version.to_le_bytes());
        format!(
            "{}-{}",
            self.name,
            &hasher.finalize().to_hex()[..HASH_DIGITS]
        )
    }
}

fn read_header(
    line: usize,
    content: &str,
    name: &mut Option<String>,
    version: &mut Option<u32>,
) -> Result<(), PromptError> {
    let content = content.trim();
    if content.is_empty() || content.starts_with('#') {
        return Ok(());
    }
    let wrong = |expected, found: &str| PromptError::Value {
        line,
        expected,
        found: found.to_owned(),
    };
    match content
        .split_once(':')
        .map(|(key, value)| (key.trim(), value.trim()))
    {
        Some(("name", value)) => {
            let is_name = value.starts_with(|c: char| c.is_ascii_alphabetic())
                && value.len() <= NAME_BYTES_MAX
                && value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_name {
                return Err(wrong(
                    "a name has a letter first, then letters, digits, `_`",
                    value,
                ));
            }
            *name = Some(value.to_owned());
        }
        Some(("version", value)) => {
            let number = value
                .parse()
                .map_err(|_| wrong("a version is a number", value))?;
            *version = Some(number);
        }
        _ => {
            return Err(PromptError::Header {
                line,
                found: content.to_owned(),
            });
        }
    }
    Ok(())
}
