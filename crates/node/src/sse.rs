//! Server-sent events (HTML Living Standard, 9.2) as far as the channel API uses them. Pure, and bounded: an event
//! longer than [`MAX_EVENT_LENGTH`] is an error.

use minuet_proto::signed::MAX_SIGNED_LENGTH;

use crate::Error;

/// The longest event in bytes: a signed statement in base64, and its field names.
pub(crate) const MAX_EVENT_LENGTH: usize = MAX_SIGNED_LENGTH * 4 / 3 + 256;

/// An event with data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Takes bytes as they come, gives events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
    after_cr: bool,
}

impl Parser {
    /// Feeds `bytes` and appends the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        for &byte in bytes {
            let ends_line = byte == b'\r' || (byte == b'\n' && !self.after_cr);
            let second_half = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            if ends_line {
                self.end_line(events)?;
            } else if !second_half {
                self.line.push(byte);
            }
            if self.line.len() + self.name.len() + self.data.len() > MAX_EVENT_LENGTH {
                return Err(Error::Endless(MAX_EVENT_LENGTH));
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let line = std::mem::take(&mut self.line);
        let line =
            std::str::from_utf8(&line).map_err(|_| Error::Garbage("an event that is not UTF-8".into()))?;
        if line.is_empty() {
            let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
            if !data.is_empty() {
                events.push(Event { name, data });
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            // Comments (an empty field name), ids (a record carries its own number) and what is not known.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Result<Vec<(String, String)>, Error> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        chunks.iter().try_for_each(|chunk| parser.push(chunk.as_bytes(), &mut events))?;
        Ok(events.into_iter().map(|e| (e.name, e.data)).collect())
    }

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let text =
            ": hello\n\nevent: record\r\nid: 4\r\ndata: abc\r\n\r\nevent:state\rdata:x\rdata:y\r\rid: 9\n\n";
        let whole = parse(&[text]).unwrap();
        assert_eq!(whole, [("record".into(), "abc".into()), ("state".into(), "x\ny".into())]);
        for cut in 0..text.len() {
            assert_eq!(parse(&[&text[..cut], &text[cut..]]).unwrap(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_line_or_event_is_refused() {
        assert!(matches!(parse(&[&"x".repeat(MAX_EVENT_LENGTH + 1)]), Err(Error::Endless(_))));
        assert!(matches!(parse(&[&"data: 12345\n".repeat(MAX_EVENT_LENGTH / 5)]), Err(Error::Endless(_))));
    }
}
