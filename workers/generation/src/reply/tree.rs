//! JSON as models write it: read strictly where it is JSON, mended where it is not.
//!
//! What is mended: fences and prose around it, thoughts before it, commas too many or forgotten,
//! curly and single quotes, bare keys, quotes and line feeds inside strings, closing brackets that
//! are not there. Members keep their order and their doubles: both matter to whoever asked for each
//! grade once.

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    /// A string; not whole if the reply ends within it.
    Text {
        value: String,
        is_whole: bool,
    },
    /// A number, as written.
    Number(String),
    /// `true`, `false`, `null`, or a bare word.
    Word(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// A value that was found in a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) tree: Tree,
    /// Whether the text is anything else than this value in proper JSON.
    pub(super) is_repaired: bool,
    /// Whether the text ends within a string.
    pub(super) ends_in_string: bool,
}

/// Places at which a value is looked for, so that prose full of brackets ends.
const STARTS_MAX: usize = 16;
/// Nesting that is read.
const DEPTH_MAX: usize = 32;
/// What ends the thoughts of a model that thinks aloud.
const THOUGHTS_END: &str = "</think>";

/// Values that might be the reply, the most likely first.
pub(super) fn candidates(text: &str) -> impl Iterator<Item = Found> {
    let after_thoughts = text
        .rfind(THOUGHTS_END)
        .map_or(0, |start| start + THOUGHTS_END.len());
    let end = without_fence(text).len();
    let body = &text[after_thoughts.min(end)..end];
    let is_shortened = body.len() < text.len();
    body.char_indices()
        .filter(|&(_, c)| c == '{' || c == '[')
        .take(STARTS_MAX)
        .filter_map(move |(start, _)| {
            let mut reader = Reader {
                text: body,
                at: start,
                is_repaired: is_shortened || !body[..start].trim_matches(is_json_space).is_empty(),
                ends_in_string: false,
            };
            let tree = reader.value(Place::Top, 0).ok()?;
            if is_empty(&tree) && reader.is_repaired {
                // A bracket in prose.
                return None;
            }
            let is_followed = !body[reader.at..].trim_matches(is_json_space).is_empty();
            Some(Found {
                tree,
                is_repaired: reader.is_repaired || is_followed,
                ends_in_string: reader.ends_in_string,
            })
        })
}

fn is_empty(tree: &Tree) -> bool {
    match tree {
        Tree::Array(elements) => elements.is_empty(),
        Tree::Object(members) => members.is_empty(),
        Tree::Text { .. } | Tree::Number(_) | Tree::Word(_) => false,
    }
}

fn without_fence(text: &str) -> &str {
    let trimmed = text.trim_end();
    trimmed.strip_suffix("```").unwrap_or(text)
}

fn is_json_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Where a value stands: it decides what can follow a closing quote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Top,
    Key,
    Member,
    Element,
}

/// Not JSON, nor anything that could be meant as such.
#[derive(Debug)]
struct NotJson;

#[derive(Debug)]
struct Reader<'a> {
    text: &'a str,
    at: usize,
    is_repaired: bool,
    ends_in_string: bool,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn repaired(&mut self) {
        self.is_repaired = true;
    }

    fn skip_space(&mut self) {
        while let Some(c) = self
            .peek()
            .filter(|c| c.is_whitespace() || *c == '\u{feff}')
        {
            self.is_repaired |= !is_json_space(c);
            self.at += c.len_utf8();
        }
    }

    fn value(&mut self, place: Place, depth: usize) -> Result<Tree, NotJson> {
        if depth > DEPTH_MAX {
            return Err(NotJson);
        }
        self.skip_space();
        match self.peek() {
            Some('{') => self.object(depth),
            Some('[') => self.array(depth),
            Some(c) if closers(c).is_some() => self.string(place),
            Some(c) if c == '-' || c.is_ascii_digit() => Ok(self.number()),
            Some(c) if c.is_alphabetic() || c == '_' => Ok(self.word()),
            _ => Err(NotJson),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Tree, NotJson> {
        self.next();
        let mut members = Vec::new();
        let mut is_after_comma = false;
        loop {
            self.skip_space();
            match self.peek() {
                Some('}') => {
                    self.next();
                    self.is_repaired |= is_after_comma;
                    break;
                }
                // The brace was forgotten before the bracket that closes what is around, or at
                // the end.
                Some(']') | None => {
                    self.repaired();
                    break;
                }
                Some(',') => {
                    self.next();
                    self.repaired();
                    continue;
                }
                _ => {}
            }
            let Some(key) = self.key(depth)? else { break };
            self.skip_space();
            match self.next() {
                Some(':') => {}
                None => break,
                _ => return Err(NotJson),
            }
            self.skip_space();
            if self.peek().is_none() {
                break;
            }
            let value = self.value(Place::Member, depth + 1)?;
            members.push((key, value));
            is_after_comma = self.comma();
        }
        self.is_repaired |= self.at == self.text.len() && !self.text.ends_with('}');
        Ok(Tree::Object(members))
    }

    /// A key; none if the text ends within it. No bracket begins one, so that reading keys never
    /// goes deeper.
    fn key(&mut self, depth: usize) -> Result<Option<String>, NotJson> {
        if let Some('{' | '[') = self.peek() {
            return Err(NotJson);
        }
        match self.value(Place::Key, depth)? {
            Tree::Text { value, is_whole } => Ok(is_whole.then_some(value)),
            Tree::Number(key) | Tree::Word(key) => {
                self.repaired();
                Ok(Some(key))
            }
            Tree::Array(_) | Tree::Object(_) => Err(NotJson),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Tree, NotJson> {
        self.next();
        let mut elements = Vec::new();
        let mut is_after_comma = false;
        loop {
            self.skip_space();
            match self.peek() {
                Some(']') => {
                    self.next();
                    self.is_repaired |= is_after_comma;
                    break;
                }
                Some('}') | None => {
                    self.repaired();
                    break;
                }
                Some(',') => {
                    self.next();
                    self.repaired();
                    continue;
                }
                _ => {}
            }
            elements.push(self.value(Place::Element, depth + 1)?);
            is_after_comma = self.comma();
        }
        Ok(Tree::Array(elements))
    }

    /// Takes the comma after an entry, if there is one; one that is forgotten is a repair.
    fn comma(&mut self) -> bool {
        self.skip_space();
        match self.peek() {
            Some(',') => {
                self.next();
                true
            }
            Some('}' | ']') | None => false,
            Some(_) => {
                self.repaired();
                false
            }
        }
    }

    fn string(&mut self, place: Place) -> Result<Tree, NotJson> {
        let open = self.next().ok_or(NotJson)?;
        let closers = closers(open).ok_or(NotJson)?;
        self.is_repaired |= open != '"';
        let mut value = String::new();
        loop {
            let Some(c) = self.next() else {
                self.repaired();
                self.ends_in_string = true;
                return Ok(Tree::Text {
                    value,
                    is_whole: false,
                });
            };
            if c == '\\' {
                self.escape(&mut value);
            } else if closers.contains(&c) {
                if self.closes(place) {
                    self.is_repaired |= c != '"';
                    return Ok(Tree::Text {
                        value,
                        is_whole: true,
                    });
                }
                self.repaired();
                value.push(c);
            } else {
                self.is_repaired |= c < ' ';
                value.push(c);
            }
        }
    }

    /// Whether a quote that was just read can be the end of a string: what follows must be what
    /// can follow in JSON. Where the text is JSON, the first quote always is.
    fn closes(&self, place: Place) -> bool {
        let rest = &self.text[self.at..];
        let next = rest.trim_start();
        let starts_line = rest[..rest.len() - next.len()].contains('\n');
        match next.chars().next() {
            None => true,
            Some(':') => place == Place::Key,
            Some('}' | ']') => place != Place::Key,
            Some(',') => match place {
                Place::Key => false,
                Place::Member => ends_member(next[1..].trim_start()),
                Place::Element | Place::Top => true,
            },
            // A comma was forgotten at the end of the line.
            Some('"') => starts_line && place != Place::Key,
            Some(_) => false,
        }
    }

    fn escape(&mut self, value: &mut String) {
        match self.next() {
            Some(c @ ('"' | '\\' | '/')) => value.push(c),
            Some('n') => value.push('\n'),
            Some('t') => value.push('\t'),
            Some('r') => value.push('\r'),
            Some('b') => value.push('\u{8}'),
            Some('f') => value.push('\u{c}'),
            Some('u') => {
                let c = self.unicode_escape();
                self.is_repaired |= c.is_none();
                value.push(c.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(c) => {
                self.repaired();
                value.push(c);
            }
            None => self.repaired(),
        }
    }

    /// The character of `\uXXXX`, or of a pair of them.
    fn unicode_escape(&mut self) -> Option<char> {
        let first = self.hex_digits()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        let before_second = self.at;
        let second = self.text[self.at..].starts_with("\\u").then(|| {
            self.at += 2;
            self.hex_digits()
        });
        match second.flatten() {
            Some(second) if (0xdc00..0xe000).contains(&second) => {
                char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
            }
            _ => {
                self.at = before_second;
                None
            }
        }
    }

    fn hex_digits(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Tree {
        let written =
            self.take_while(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
        self.is_repaired |= serde_json::from_str::<f64>(&written).is_err();
        Tree::Number(written)
    }

    fn word(&mut self) -> Tree {
        let word = self.take_while(|c| c.is_alphanumeric() || c == '_' || c == '-');
        self.is_repaired |= !matches!(word.as_str(), "true" | "false" | "null");
        Tree::Word(word)
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }
}

/// What closes a string that `open` opens; none if it opens none.
fn closers(open: char) -> Option<&'static [char]> {
    match open {
        '"' => Some(&['"']),
        '“' | '”' | '„' => Some(&['”', '“', '"']),
        '\'' => Some(&['\'']),
        '‘' | '’' => Some(&['’', '\'']),
        _ => None,
    }
}

/// Whether what stands after a comma shows that the comma ended a member: the end of the object or
/// another key, quoted or bare.
fn ends_member(rest: &str) -> bool {
    match rest.chars().next() {
        None | Some('}' | ']') => true,
        Some(c) if closers(c).is_some() => true,
        Some(_) => {
            let key_end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'));
            key_end.is_some_and(|end| end > 0 && rest[end..].trim_start().starts_with(':'))
        }
    }
}
