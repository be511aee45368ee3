//! Bencode (BEP 3), strictly: one encoding for each value, no recursion without bound, no number that wraps.
//!
//! Our own, since the library at hand (`librqbit-bencode`) takes a number of any length and lets it wrap, and
//! since what is signed and hashed here must have one form only: keys ascend and are unique, numbers have no
//! leading zero.

use crate::Error;

/// How deep values may nest. A `.torrent` needs 6.
pub const MAX_DEPTH: usize = 16;
/// How many values one text may hold.
pub const MAX_VALUES: usize = 1 << 16;

/// A parsed value; byte strings are borrowed from the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i…e`, as far as 64 bits reach, signed or unsigned.
    Integer(i128),
    /// `<length>:…`
    Bytes(&'a [u8]),
    /// `l…e`
    List(Vec<Value<'a>>),
    /// `d…e`
    Dict(Dict<'a>),
}

/// A dictionary and the bytes that it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dict<'a> {
    what: &'static str,
    raw: &'a [u8],
    /// Ascending by key.
    entries: Vec<(&'a [u8], Value<'a>)>,
}

impl<'a> Dict<'a> {
    /// Parses `bytes`, which must be one dictionary and nothing else; `what` names it in errors.
    pub fn parse(what: &'static str, bytes: &'a [u8]) -> Result<Self, Error> {
        let mut parser = Parser { what, input: bytes, at: 0, values: 0 };
        match parser.value(0)? {
            _ if parser.at != bytes.len() => Err(Error::malformed(what, "something follows its end")),
            Value::Dict(dict) => Ok(dict),
            _ => Err(Error::malformed(what, "it is not a bencoded dictionary")),
        }
    }

    /// The encoded form, as it came.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let at = self.entries.binary_search_by(|(k, _)| (*k).cmp(key.as_bytes())).ok()?;
        Some(&self.entries[at].1)
    }

    /// The value of a key that must be a byte string.
    pub fn bytes(&self, key: &str) -> Result<&'a [u8], Error> {
        match self.get(key) {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            other => Err(self.unfit(key, other, "a byte string")),
        }
    }

    /// The value of a key that must be UTF-8 text.
    pub fn text(&self, key: &str) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes(key)?)
            .map_err(|_| Error::malformed(self.what, format_args!("its {key} is not UTF-8")))
    }

    /// The value of a key that must be a number within the range of `T`.
    pub fn number<T: TryFrom<i128>>(&self, key: &str) -> Result<T, Error> {
        match self.get(key) {
            Some(Value::Integer(number)) => T::try_from(*number)
                .map_err(|_| Error::malformed(self.what, format_args!("its {key} is out of bounds"))),
            other => Err(self.unfit(key, other, "a number")),
        }
    }

    /// The value of a key that must be 0 or 1.
    pub fn flag(&self, key: &str) -> Result<bool, Error> {
        match self.number::<u8>(key)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::malformed(self.what, format_args!("its {key} is neither 0 nor 1"))),
        }
    }

    /// The value of a key that must be a dictionary.
    pub fn dict(&self, key: &str) -> Result<&Dict<'a>, Error> {
        match self.get(key) {
            Some(Value::Dict(dict)) => Ok(dict),
            other => Err(self.unfit(key, other, "a dictionary")),
        }
    }

    fn unfit(&self, key: &str, found: Option<&Value<'_>>, wanted: &str) -> Error {
        match found {
            None => Error::malformed(self.what, format_args!("it has no {key}")),
            Some(_) => Error::malformed(self.what, format_args!("its {key} is not {wanted}")),
        }
    }
}

struct Parser<'a> {
    what: &'static str,
    input: &'a [u8],
    at: usize,
    values: usize,
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, why: &str) -> Result<T, Error> {
        Err(Error::malformed(self.what, format_args!("{why} at byte {}", self.at)))
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Error> {
        self.values += 1;
        if depth > MAX_DEPTH || self.values > MAX_VALUES {
            return self.fail("too many values, or nested too deep,");
        }
        let start = self.at;
        match self.peek() {
            Some(b'i') => {
                self.at += 1;
                let number = self.number(b'e')?;
                Ok(Value::Integer(number))
            }
            Some(b'0'..=b'9') => self.string().map(Value::Bytes),
            Some(b'l') => {
                self.at += 1;
                let mut list = Vec::new();
                while self.peek() != Some(b'e') {
                    list.push(self.value(depth + 1)?);
                }
                self.at += 1;
                Ok(Value::List(list))
            }
            Some(b'd') => {
                self.at += 1;
                let mut entries: Vec<(&[u8], Value<'_>)> = Vec::new();
                while self.peek() != Some(b'e') {
                    let key = self.string()?;
                    if entries.last().is_some_and(|(last, _)| *last >= key) {
                        return self.fail("dictionary keys out of order");
                    }
                    entries.push((key, self.value(depth + 1)?));
                }
                self.at += 1;
                Ok(Value::Dict(Dict { what: self.what, raw: &self.input[start..self.at], entries }))
            }
            Some(_) => self.fail("not bencode"),
            None => self.fail("cut short"),
        }
    }

    /// Decimal digits up to `end`, in the one form that BEP 3 allows.
    fn number(&mut self, end: u8) -> Result<i128, Error> {
        let length = self.input[self.at..].iter().take(22).position(|b| *b == end);
        let Some(length) = length else { return self.fail("a number without an end, or too long,") };
        let text = &self.input[self.at..self.at + length];
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let canonical = match digits {
            [b'0'] => text.len() == 1,
            [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
            _ => false,
        };
        // Up to 21 characters, so it fits.
        let number =
            std::str::from_utf8(text).ok().filter(|_| canonical).and_then(|t| t.parse::<i128>().ok());
        let Some(number) = number else { return self.fail("not a number in its one form") };
        self.at += length + 1;
        Ok(number)
    }

    fn string(&mut self) -> Result<&'a [u8], Error> {
        let length = self.number(b':')?;
        let rest = &self.input[self.at..];
        match usize::try_from(length).ok().and_then(|length| rest.get(..length)) {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => self.fail("a byte string longer than the rest"),
        }
    }
}

/// Writes one dictionary. Keys must be given in ascending order.
#[derive(Debug)]
pub struct DictWriter {
    out: Vec<u8>,
    last: &'static str,
}

impl DictWriter {
    /// An empty dictionary.
    #[expect(clippy::new_without_default, reason = "a writer is started, not defaulted")]
    pub fn new() -> Self {
        Self { out: vec![b'd'], last: "" }
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, key: &'static str, number: impl Into<i128>) -> Self {
        let number = number.into();
        self.raw(key, format!("i{number}e").as_bytes())
    }

    /// Adds a byte string.
    #[must_use]
    pub fn bytes(mut self, key: &'static str, bytes: impl AsRef<[u8]>) -> Self {
        self.key(key);
        write_string(&mut self.out, bytes.as_ref());
        self
    }

    /// Adds a list of byte strings.
    #[must_use]
    pub fn list<S: AsRef<[u8]>>(mut self, key: &'static str, items: impl IntoIterator<Item = S>) -> Self {
        self.key(key);
        self.out.push(b'l');
        items.into_iter().for_each(|item| write_string(&mut self.out, item.as_ref()));
        self.out.push(b'e');
        self
    }

    /// Adds a value that is already encoded.
    #[must_use]
    pub fn raw(mut self, key: &'static str, encoded: &[u8]) -> Self {
        self.key(key);
        self.out.extend_from_slice(encoded);
        self
    }

    /// The finished dictionary's bytes.
    pub fn finish(mut self) -> bytes::Bytes {
        self.out.push(b'e');
        self.out.into()
    }

    fn key(&mut self, key: &'static str) {
        assert!(self.last < key, "dictionary keys must ascend: {} before {key}", self.last);
        self.last = key;
        write_string(&mut self.out, key.as_bytes());
    }
}

fn write_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// The byte string that stands right after `key` at the beginning of `prefix`, as soon as it is there as a whole; `None`
/// while it is not. For looking at what comes before it has all come.
///
/// # Errors
/// When it begins with something else, or the byte string is longer than `most`.
pub fn bytes_after<'a>(
    what: &'static str,
    key: &[u8],
    prefix: &'a [u8],
    most: usize,
) -> Result<Option<&'a [u8]>, Error> {
    /// More digits than any length has that is read.
    const MAX_DIGITS: usize = 10;
    let malformed = || Error::malformed(what, "it does not begin as it has to");
    let known = prefix.len().min(key.len());
    if prefix[..known] != key[..known] {
        return Err(malformed());
    }
    let rest = &prefix[known..];
    let digits = rest.iter().take(MAX_DIGITS).take_while(|byte| byte.is_ascii_digit()).count();
    match rest.get(digits) {
        None => return Ok(None),
        Some(b':') if digits > 0 => {}
        Some(_) => return Err(malformed()),
    }
    let length = std::str::from_utf8(&rest[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
    let length = length.ok_or_else(malformed)?;
    Error::check_length(what, length, most)?;
    Ok(rest[digits + 1..].get(..length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let bytes = DictWriter::new()
            .bytes("a", [0, 255])
            .list("b", ["x", ""])
            .number("c", u64::MAX)
            .raw("d", b"de")
            .number("e", -3)
            .finish();
        let dict = Dict::parse("it", &bytes).unwrap();
        assert_eq!(dict.bytes("a"), Ok(&[0, 255][..]));
        assert_eq!(dict.get("b"), Some(&Value::List(vec![Value::Bytes(b"x"), Value::Bytes(b"")])));
        assert_eq!(dict.number("c"), Ok(u64::MAX));
        assert_eq!(dict.dict("d").unwrap().raw(), b"de");
        assert_eq!(dict.number("e"), Ok(-3i8));
        assert!(dict.number::<u8>("e").is_err());
        assert!(dict.flag("c").is_err());
        assert!(dict.bytes("f").is_err());
    }

    #[test]
    fn refuses_every_second_form() {
        for bad in [
            "",
            "d",
            "de ",
            "le",
            "i1e",
            "d1:ai01ee",
            "d1:ai-0ee",
            "d1:ai+1ee",
            "d1:aie",
            "d1:ai18446744073709551621000e",
            "d01:ai1ee",
            "d1:bi1e1:ai1ee",
            "d1:ai1e1:ai1ee",
            "d1:a99999999999999999999:e",
            "d1:a5:abce",
            "d1:a-1:e",
            "di1ei1ee",
        ] {
            assert!(Dict::parse("it", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = format!("d1:a{}{}e", "l".repeat(100_000), "e".repeat(100_000));
        assert!(Dict::parse("it", deep.as_bytes()).is_err());
        let wide = format!("d1:al{}ee", "0:".repeat(MAX_VALUES));
        assert!(Dict::parse("it", wide.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in "[dlie0-9:a-]{0,60}") {
            let _ = Dict::parse("it", bytes.as_bytes());
        }
    }
}
