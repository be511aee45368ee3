//! Links as they come out of mails, pages and shells: finding the link in the text around it, and undoing what programs
//! on the way did to it.
//!
//! Line breaks stay in the text as `\n`, since only the reader of a value knows whether the value goes on after one.

use crate::title::is_format;

/// Entities that stand for what a link holds, or for the marks around it; as HTML writes them, and numbers besides.
const ENTITIES: &[(&str, &str)] = &[
    ("&amp;", "&"),
    ("&quot;", "\""),
    ("&apos;", "'"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&nbsp;", " "),
    ("&shy;", ""),
    ("&equals;", "="),
    ("&colon;", ":"),
    ("&quest;", "?"),
    ("&percnt;", "%"),
    ("&sol;", "/"),
];
/// What pages put into long words, so that they can be broken.
const BREAKS: &[(&str, &str)] =
    &[("<wbr>", ""), ("<wbr/>", ""), ("<wbr />", ""), ("<br>", "\n"), ("<br/>", "\n")];
/// What programs make of an address so that nobody opens it by mistake.
const DEFUSED: &[(&str, &str)] =
    &[("hxxp://", "http://"), ("hxxps://", "https://"), ("[.]", "."), ("[:]", ":")];
/// How often an ampersand may have been escaped over again.
const ESCAPED_AT_MOST: usize = 3;
/// Marks before a link, and the ones that end it.
const PAIRS: &[(char, char)] = &[
    ('<', '>'),
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('(', ')'),
    ('[', ']'),
    ('{', '}'),
    ('“', '”'),
    ('„', '“'),
    ('‘', '’'),
    ('‚', '‘'),
    ('«', '»'),
    ('»', '«'),
    ('‹', '›'),
    ('「', '」'),
];
/// Marks that are never in a link as they are (RFC 3986).
const NEVER: &[char] = &['<', '>', '"', '`', '“', '”', '„', '«', '»'];
/// Marks that end a sentence rather than a link.
const TRAILING: &[char] =
    &['.', ',', ';', ':', '!', '?', '\'', '’', '‘', '*', '_', '~', '|', '…', '。', '、', '&'];

/// The text without what programs put into links.
pub(super) fn tidy(text: &str) -> String {
    // As JSON and JavaScript write them.
    let text = text.replace("\\u0026", "&").replace("\\u003d", "=").replace("\\u003D", "=");
    let mut text = unquoted_printable(&text.replace("\r\n", "\n"));
    for (mark, meaning) in BREAKS.iter().chain(DEFUSED) {
        text = replace_any_case(&text, mark, meaning);
    }
    for _ in 0..ESCAPED_AT_MOST {
        text = unescape(&text);
    }
    // Shells escape marks with a backslash, and terminals break lines with one.
    text.retain(|c| c != '\\' && !is_format(c) && (c == '\n' || c == '\t' || !c.is_control()));
    join_escapes(&unquote_lines(&text))
}

/// The query with ampersands between its parts, of which half an entity may have left the semicolon alone.
pub(super) fn ampersands(query: &str) -> String {
    let mut parts = query.split(';');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let name = part.split('=').next().filter(|name| name.len() < part.len()).unwrap_or_default();
        let name = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        out.push(if matches!(name.as_str(), "xs" | "xt" | "dn" | "tr") { '&' } else { ';' });
        out.push_str(part);
    }
    out
}

/// Undoes quoted-printable (RFC 2045, 6.7), as a mail's source has it: soft line breaks, and bytes as `=` and two digits.
fn unquoted_printable(text: &str) -> String {
    // In a text that shows an escaped equals sign, each one is an escape or ends a line softly.
    let lower = text.to_ascii_lowercase();
    let all = without_soft_breaks(&lower, true);
    if !["xs=3durn", "xt=3durn", "tr=3dhttp"].iter().any(|mark| all.contains(mark)) {
        // A short link has no equals sign of its own.
        let is_short = !lower.contains("magnet:") && !lower.contains("xs=");
        return without_soft_breaks(text, is_short);
    }
    let text = without_soft_breaks(text, true);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let escaped = match (first, after) {
            (b'=', [high, low, ..]) => digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Joins lines that end in an equals sign, or blanks that stand for such a line break: `all` of them, or those only whose
/// equals sign cannot be the one between a name and its value.
fn without_soft_breaks(text: &str, all: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let after = &rest[at + 1..];
        let bare = after.trim_start_matches([' ', '\t']);
        let end = match bare.strip_prefix('\n') {
            Some(next) => Some(next),
            None => (all && bare.len() < after.len()).then_some(bare),
        };
        out.push_str(&rest[..at]);
        let word = out.rsplit(['&', '?', ' ', '\n']).next().unwrap_or_default();
        let in_value = word.contains('=') || word.contains("://") || word.contains("urn:");
        match end.filter(|_| all || in_value) {
            Some(next) => rest = next,
            None => {
                out.push('=');
                rest = after;
            }
        }
    }
    out + rest
}

fn replace_any_case(text: &str, from: &str, to: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (mut out, mut at) = (String::new(), 0);
    while let Some(found) = lower[at..].find(from) {
        out.push_str(&text[at..at + found]);
        out.push_str(to);
        at += found + from.len();
    }
    out.push_str(&text[at..]);
    out
}

/// Undoes HTML's escapes, once.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match entity(rest) {
            Some((meaning, len)) => {
                out.push_str(&meaning);
                rest = &rest[len..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// The meaning and the length of the entity at the beginning of `text`.
fn entity(text: &str) -> Option<(String, usize)> {
    let len = text.bytes().take(12).position(|byte| byte == b';')? + 1;
    let name = text.get(..len)?;
    let known = ENTITIES.iter().find(|(entity, _)| entity.eq_ignore_ascii_case(name));
    if let Some((_, meaning)) = known {
        return Some(((*meaning).to_owned(), len));
    }
    let number = name.strip_prefix("&#")?.strip_suffix(';')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    Some((char::from_u32(code)?.to_string(), len))
}

/// Takes off what answers put before the lines that they quote, and indentation.
fn unquote_lines(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut out = lines.next().unwrap_or_default().trim_end().to_owned();
    for line in lines {
        out.push('\n');
        out.push_str(line.trim_start_matches(|c: char| c.is_whitespace() || c == '>' || c == '|').trim_end());
    }
    out
}

/// Puts percent-escapes together that a line break has torn.
fn join_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_escape = 0;
    for c in text.chars() {
        match c {
            '\n' if in_escape > 0 => continue,
            '%' => in_escape = 2,
            _ if in_escape > 0 => in_escape -= 1,
            _ => {}
        }
        out.push(c);
    }
    out
}

/// The link that begins at byte `from` of `text`: to the mark that belongs to the one before it, without what ends a
/// sentence, and over line breaks as far as the lines look like parts of a link.
pub(super) fn link_at(text: &str, from: usize) -> &str {
    let before = text[..from].chars().next_back();
    let rest = &text[from..];
    let mut end = lines_of_link(rest);
    if let Some((open, close)) = PAIRS.iter().find(|(open, _)| Some(*open) == before) {
        end = end.min(closing(rest, *open, *close).unwrap_or(rest.len()));
    }
    end = end.min(rest.find(NEVER).unwrap_or(rest.len()));
    let mut link = &rest[..end];
    loop {
        let shorter = link.trim_end().trim_end_matches(TRAILING);
        let shorter = [('(', ')'), ('[', ']'), ('{', '}')].iter().fold(shorter, |link, (open, close)| {
            let unmatched = link.matches(*close).count() > link.matches(*open).count();
            if unmatched { link.strip_suffix(*close).unwrap_or(link) } else { link }
        });
        if shorter.len() == link.len() {
            return link;
        }
        link = shorter;
    }
}

/// Where the mark is that closes what was opened before `text`.
fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 1;
    text.char_indices().find_map(|(at, c)| {
        if c == close {
            depth -= 1;
        } else if c == open {
            depth += 1;
        }
        (depth == 0).then_some(at)
    })
}

/// How far a link goes on over line breaks: a line of one word, or one whose first word has a link's marks, belongs to
/// it; an empty line ends it.
fn lines_of_link(text: &str) -> usize {
    let mut end = 0;
    for (number, line) in text.split('\n').enumerate() {
        let word = line.split_whitespace().next().unwrap_or_default();
        let more = match number {
            0 => true,
            _ => word == line && !word.is_empty() || word.contains(['&', '=', '%']),
        };
        if !more {
            break;
        }
        end += line.len() + usize::from(number > 0);
    }
    end
}

/// Undoes percent-escapes once; `None` where there are none. What is no UTF-8 then is left as it is.
pub(super) fn percent_decoded(text: &str) -> Option<String> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.as_bytes();
    let (mut out, mut at, mut found) = (Vec::with_capacity(bytes.len()), 0, false);
    while at < bytes.len() {
        let pair = bytes.get(at + 1).copied().and_then(hex).zip(bytes.get(at + 2).copied().and_then(hex));
        match (bytes[at], pair) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                at += 3;
                found = true;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().filter(|_| found)
}
