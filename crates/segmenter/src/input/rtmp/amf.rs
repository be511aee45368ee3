//! AMF0: what RTMP's commands are written in (Adobe's AMF 0 specification). Only what an encoder says is read. Pure.

/// Objects in objects; encoders have one level.
const MAX_DEPTH: u8 = 8;
/// Names of one object that are looked at.
const MAX_NAMES: usize = 128;

/// A value, as far as anybody here needs it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// An object's names and values.
    Object(Vec<(String, Value)>),
    /// Anything else.
    Other,
}

impl Value {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What an object has under `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Object(fields) => fields.iter().find(|(field, _)| field == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

/// Reads the values of a command, as many as can be read.
pub fn read(mut bytes: &[u8]) -> Vec<Value> {
    let mut values = Vec::new();
    while values.len() < MAX_NAMES
        && let Some(value) = value(&mut bytes, 0)
    {
        values.push(value);
    }
    values
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8], len: usize) -> Option<usize> {
    Some(take(bytes, len)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn text(bytes: &mut &[u8], len_bytes: usize) -> Option<String> {
    let len = number(bytes, len_bytes)?;
    Some(String::from_utf8_lossy(take(bytes, len)?).into_owned())
}

fn fields(bytes: &mut &[u8], depth: u8) -> Option<Value> {
    let mut fields = Vec::new();
    loop {
        let name = text(bytes, 2)?;
        if name.is_empty() && bytes.first() == Some(&9) {
            take(bytes, 1)?;
            return Some(Value::Object(fields));
        }
        let value = value(bytes, depth + 1)?;
        if fields.len() < MAX_NAMES {
            fields.push((name, value));
        }
    }
}

fn value(bytes: &mut &[u8], depth: u8) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    Some(match take(bytes, 1)? {
        [0] => Value::Number(f64::from_be_bytes(*take(bytes, 8)?.first_chunk()?)),
        [1] => take(bytes, 1).map(|_| Value::Other)?,
        [2] => Value::Text(text(bytes, 2)?),
        [3] => fields(bytes, depth)?,
        [5 | 6] => Value::Other,
        // An array with names; how many, nobody need believe.
        [8] => {
            take(bytes, 4)?;
            fields(bytes, depth)?
        }
        [10] => {
            let count = number(bytes, 4)?;
            for _ in 0..count {
                value(bytes, depth + 1)?;
            }
            Value::Other
        }
        [11] => take(bytes, 10).map(|_| Value::Other)?,
        [12] => Value::Text(text(bytes, 4)?),
        _ => return None,
    })
}

/// Writes a number.
pub fn write_number(number: f64, out: &mut Vec<u8>) {
    out.push(0);
    out.extend(number.to_be_bytes());
}

/// Writes a text of less than 64 KiB.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(2);
    write_name(text, out);
}

fn write_name(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(len.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(len)]);
}

/// Writes a null.
pub fn write_null(out: &mut Vec<u8>) {
    out.push(5);
}

/// Writes an object of texts.
pub fn write_object(fields: &[(&str, &str)], out: &mut Vec<u8>) {
    out.push(3);
    for (name, value) in fields {
        write_name(name, out);
        write_text(value, out);
    }
    out.extend([0, 0, 9]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command() {
        let mut bytes = Vec::new();
        write_text("connect", &mut bytes);
        write_number(1.0, &mut bytes);
        write_object(&[("app", "live"), ("tcUrl", "rtmp://host/live")], &mut bytes);
        write_null(&mut bytes);
        let values = read(&bytes);
        assert_eq!(values.len(), 4);
        assert_eq!((values[0].text(), &values[1]), (Some("connect"), &Value::Number(1.0)));
        assert_eq!(values[2].get("app").and_then(Value::text), Some("live"));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            read(&bytes);
        }
    }

    #[test]
    fn objects_in_objects_have_an_end() {
        let deep: Vec<u8> = [3, 0, 1, b'a'].repeat(10_000);
        assert!(read(&deep).is_empty());
        // An array that claims to be long.
        assert!(read(&[10, 255, 255, 255, 255, 5, 5]).is_empty());
    }
}
