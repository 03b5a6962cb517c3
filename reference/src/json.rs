//! JSON the plain way: a whole value in memory, numbers as they are written, every member kept.

/// Deepest nesting that is followed. A record may nest a tenth of it.
const DEPTH_MAX: usize = 1_000;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number as written: `1.0` and `1` are different texts, and no digit is lost.
    Number(String),
    /// A string; `None` if it names half a surrogate pair, which no Unicode string can hold.
    Text(Option<String>),
    /// A string whose bytes are not UTF-8. As a member without a key it says that the key before it is such a string.
    NotUtf8,
    /// An array.
    Array(Vec<Self>),
    /// An object with all its members in their order, also those whose key comes again.
    Object(Vec<(Option<String>, Self)>),
}

/// The text is no JSON, or nests too deep to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Space, tab, carriage return, newline (RFC 8259 section 2).
pub(crate) fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while at < text.len() && matches!(text[at], b' ' | b'\t' | b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// The value at `at`, and where it ends.
pub(crate) fn value_at(text: &[u8], at: usize) -> Result<(Json, usize), Broken> {
    let mut reader = Reader { text, at };
    let value = reader.value(1)?;
    Ok((value, reader.at))
}

impl Json {
    /// The value that `text` is, with nothing but blanks around it.
    pub fn parse(text: &[u8]) -> Result<Self, Broken> {
        let (value, end) = value_at(text, skip_blanks(text, 0))?;
        if skip_blanks(text, end) == text.len() { Ok(value) } else { Err(Broken) }
    }

    /// The member of this name; the last one, if it comes again.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().rev().find(|(key, _)| key.as_deref() == Some(name)).map(|(_, member)| member)
    }

    /// The member of the member, and so on.
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |value, name| value.get(name))
    }

    /// The text of a string.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => text.as_deref(),
            _ => None,
        }
    }

    /// Whether it is a string that is no text: what decides must be text.
    pub fn is_no_text(&self) -> bool {
        matches!(self, Self::Text(None) | Self::NotUtf8)
    }

    /// Whether all of it is UTF-8, as JSON must be (RFC 8259 section 8.1).
    pub fn is_utf8(&self) -> bool {
        match self {
            Self::NotUtf8 => false,
            Self::Array(elements) => elements.iter().all(Self::is_utf8),
            Self::Object(members) => members.iter().all(|(_, member)| member.is_utf8()),
            _ => true,
        }
    }

    /// How deep its objects and arrays nest; 0 for a scalar.
    pub fn nesting(&self) -> usize {
        match self {
            Self::Array(elements) => 1 + elements.iter().map(Self::nesting).max().unwrap_or(0),
            Self::Object(members) => 1 + members.iter().map(|(_, member)| member.nesting()).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// Keys sorted by code point, the last of equal keys, no blanks, the shortest escapes, numbers as written; `None` if
    /// a string of it is none.
    pub fn canonical(&self) -> Option<String> {
        Some(match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => quoted(text.as_deref()?),
            Self::NotUtf8 => return None,
            Self::Array(elements) => {
                let elements: Option<Vec<String>> = elements.iter().map(Self::canonical).collect();
                format!("[{}]", elements?.join(","))
            }
            Self::Object(members) => {
                let mut keys = members.iter().map(|(key, _)| key.as_deref()).collect::<Option<Vec<_>>>()?;
                keys.sort_unstable();
                keys.dedup();
                let member = |key: &str| Some(format!("{}:{}", quoted(key), self.get(key)?.canonical()?));
                let members: Option<Vec<String>> = keys.into_iter().map(member).collect();
                format!("{{{}}}", members?.join(","))
            }
        })
    }
}

/// A string with the escapes that JSON demands, and no others.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control < ' ' => quoted.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// What stands between two quotation marks.
enum Characters {
    /// `None` with half a surrogate pair in it.
    Utf8(Option<String>),
    NotUtf8,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn next(&self) -> Result<u8, Broken> {
        self.text.get(self.at).copied().ok_or(Broken)
    }

    fn blanks(&mut self) {
        self.at = skip_blanks(self.text, self.at);
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, Broken> {
        let is_there = self.text[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        if is_there { Ok(value) } else { Err(Broken) }
    }

    fn value(&mut self, depth: usize) -> Result<Json, Broken> {
        if DEPTH_MAX < depth {
            return Err(Broken);
        }
        match self.next()? {
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'"' => Ok(match self.string()? {
                Characters::Utf8(text) => Json::Text(text),
                Characters::NotUtf8 => Json::NotUtf8,
            }),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            _ => self.number(),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Json, Broken> {
        self.at += 1;
        let mut elements = Vec::new();
        self.blanks();
        if self.take(b']') {
            return Ok(Json::Array(elements));
        }
        loop {
            self.blanks();
            elements.push(self.value(depth + 1)?);
            self.blanks();
            if self.take(b']') {
                return Ok(Json::Array(elements));
            }
            if !self.take(b',') {
                return Err(Broken);
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json, Broken> {
        self.at += 1;
        let mut members = Vec::new();
        self.blanks();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.blanks();
            if self.next()? != b'"' {
                return Err(Broken);
            }
            let key = self.string()?;
            self.blanks();
            if !self.take(b':') {
                return Err(Broken);
            }
            self.blanks();
            let value = self.value(depth + 1)?;
            match key {
                Characters::Utf8(key) => members.push((key, value)),
                Characters::NotUtf8 => members.extend([(None, value), (None, Json::NotUtf8)]),
            }
            self.blanks();
            if self.take(b'}') {
                return Ok(Json::Object(members));
            }
            if !self.take(b',') {
                return Err(Broken);
            }
        }
    }

    fn string(&mut self) -> Result<Characters, Broken> {
        self.at += 1;
        let mut bytes = Vec::new();
        let mut is_text = true;
        loop {
            match self.next()? {
                b'"' => {
                    self.at += 1;
                    return Ok(match String::from_utf8(bytes) {
                        Ok(text) => Characters::Utf8(is_text.then_some(text)),
                        Err(_) => Characters::NotUtf8,
                    });
                }
                b'\\' => {
                    self.at += 1;
                    let escape = self.next()?;
                    self.at += 1;
                    let char = match escape {
                        b'"' | b'\\' | b'/' => Some(char::from(escape)),
                        b'b' => Some('\u{8}'),
                        b'f' => Some('\u{c}'),
                        b'n' => Some('\n'),
                        b'r' => Some('\r'),
                        b't' => Some('\t'),
                        b'u' => self.unicode_escape()?,
                        _ => return Err(Broken),
                    };
                    is_text &= char.is_some();
                    let mut buffer = [0; 4];
                    bytes.extend(char.unwrap_or('?').encode_utf8(&mut buffer).as_bytes());
                }
                control if control < b' ' => return Err(Broken),
                byte => {
                    bytes.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    /// Behind `\u`: a character, or `None` for half a pair.
    fn unicode_escape(&mut self) -> Result<Option<char>, Broken> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first));
        }
        if !self.text[self.at..].starts_with(b"\\u") {
            return Ok(None);
        }
        let before = self.at;
        self.at += 2;
        let second = self.hex4()?;
        if !(0xdc00..0xe000).contains(&second) {
            // It is an escape of its own.
            self.at = before;
            return Ok(None);
        }
        Ok(char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)))
    }

    fn hex4(&mut self) -> Result<u32, Broken> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(Broken)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| Ok(value * 16 + char::from(*digit).to_digit(16).ok_or(Broken)?))
    }

    fn number(&mut self) -> Result<Json, Broken> {
        let begin = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.text[begin..self.at]).map_err(|_| Broken)?;
        Ok(Json::Number(text.to_owned()))
    }

    fn digits(&mut self) -> Result<(), Broken> {
        let begin = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if begin < self.at { Ok(()) } else { Err(Broken) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_is_read_and_nothing_else() {
        for good in ["null", " [ ] ", "{\"a\":[1,2.50,-0e+1]}", "\"\\u00e9\\ud83d\\ude00\\/\"", "0"] {
            assert!(Json::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in
            ["", "[1,]", "{\"a\"}", "01", "+1", "1.", ".5", "nul", "[1] 2", "\"\n\"", "\"\\x\"", "\"\\u12\"", "\""]
        {
            assert_eq!(Json::parse(bad.as_bytes()), Err(Broken), "{bad}");
        }
        assert_eq!(Json::parse(b"\"\\ud800\""), Ok(Json::Text(None)));
        assert_eq!(Json::parse(b"\"a\xff\""), Ok(Json::NotUtf8));
        for (text, is_utf8) in
            [(&b"{\"a\":[{\"b\":\"\xff\"}]}"[..], false), (b"{\"\xc3\":1}", false), (b"{\"\xc3\xa9\":1}", true)]
        {
            assert_eq!(Json::parse(text).unwrap().is_utf8(), is_utf8);
        }
        assert_eq!(Json::parse(b"\"\\ud800\\u0041\""), Ok(Json::Text(None)));
        assert!(Json::parse(&[vec![b'['; 100_000], vec![b']'; 100_000]].concat()).is_err());
    }

    #[test]
    fn the_canonical_form_is_the_same_for_the_same_content() {
        let canonical = |text: &str| Json::parse(text.as_bytes()).unwrap().canonical().unwrap();
        assert_eq!(
            canonical(" { \"b\\u0062\" : [ ] , \"a\":[{ },true , -1.50e+3,null,[[\"\\/\\u001F\\\"\"]] ] ,\"b\":0 }\n"),
            "{\"a\":[{},true,-1.50e+3,null,[[\"/\\u001f\\\"\"]]],\"b\":0,\"bb\":[]}"
        );
        assert_eq!(canonical("{\"a\":1,\"a\":2}"), "{\"a\":2}");
    }
}
